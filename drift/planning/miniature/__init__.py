"""A tiny family of models, problems and benchmarks, trained from scratch: the whole chain on a laptop.

world       scenes of four labelled values, arithmetic modulo 7 over them, questions and answers as text
render      a scene as a small palettised PNG
tokenizer   the word-level vocabulary, the chat template, the processor
models      configurations of the text and the vision-language model, and how one becomes the other
dialogs     dialogs as padded token batches, with or without images
curriculum  what each training stage sees
pretrain    the training stages: base, vision tower, VLM, expert, teacher
measure     accuracies by greedy or sampled generation
data        problem pool, replay set and benchmark tables as files
build       everything together, into one directory
"""

from drift.ground.torchvision import allow_cuda_torchvision_on_cpu

allow_cuda_torchvision_on_cpu()  # before any module here imports transformers' model classes, which import torchvision
