"""The recipe. Names that the command line needs stand here, without the library that reads recipes."""

from typing import Literal

EngineName = Literal["hf", "paged", "vllm"]  # what samples; align.sampling.engines opens it
