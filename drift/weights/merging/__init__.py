"""One checkpoint out of φ_VL, φ_reason and φ_base, without training.

merge    from checkpoints to a model directory      plan      which tensors, known from headers
tensors  one tensor of it, a stretch at a time      formulas  linear, task arithmetic, TIES' election
sparse   what TIES and DARE drop of a task vector
"""
