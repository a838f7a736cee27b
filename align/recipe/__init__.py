"""The recipe: one typed file that describes base, data and the three stages. Without torch.

What the command line names too stands here, since it does without the library that reads recipes.
"""

from typing import Literal

EngineName = Literal["hf", "paged", "vllm"]  # what samples; align.sampling.engines opens it
Priority = Literal["none", "margin", "gap", "disagreement"]  # what people do first: align.loop.priorities
