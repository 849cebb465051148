"""One checkpoint out of φ_VL, φ_reason and φ_base, without training.

merge    from checkpoints to a model directory      plan      which tensors, known from headers
tensors  one tensor of it, a stretch at a time      formulas  linear, task arithmetic, SLERP, TIES' election
sparse   what TIES, DARE and DELLA drop             spectra   what FRISM and IP-Merging leave of a matrix
adapter  φ_VL + c·Δ as a LoRA adapter              frank     FRANK's weights, by layer
"""
