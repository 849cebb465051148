"""Model directories and tensors on disk, read and written a stretch at a time.

headers      where a tensor lies            checkpoints  lazy model directories
files        which files are read           hub      is it on the hub?
streaming    a safetensors writer, pieces   finite   does a tensor hold NaN?    forms   whole, factors, 8 bits
adapters     LoRA over a base               mixture  experts, fused and apart
sidefiles    what lies beside the weights   pickled  pytorch_model.bin, if allowed
"""
