"""Converts the tensors of a safetensors file to float16: python scripts/to_float16.py IN OUT (needs numpy and safetensors)."""

import sys

import numpy
from safetensors.numpy import load_file, save_file

source, target = sys.argv[1:]
save_file({name: value.astype(numpy.float16) for name, value in load_file(source).items()}, target, {"format": "pt"})
