"""Messages where the Hugging Face hub does not answer, and its libraries' progress bars."""

from __future__ import annotations

import errno
import sys

from align.errors import UserError


def refused(error: Exception, name: str, otherwise: str) -> UserError:
    """One message for a failed request: `name` is what was asked for, `otherwise` what was tried before.

    Raises the error itself where the cause is this machine's disk.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return UserError(f"{name} is not on the hub, or you have no access to it: {first_line(error)}")
    # httpx, proxies and offline mode each raise their own.
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        raise error  # the cache's disk, not the hub
    offline = isinstance(error, OfflineModeIsEnabled)
    why = "is switched off (HF_HUB_OFFLINE)" if offline else f"cannot be reached ({type(error).__name__})"
    return UserError(
        f"{name} is {otherwise} on this machine, and the hub {why}: download it where there is a network, "
        "and name the folder"
    )


def first_line(error: BaseException) -> str:
    """An error's first line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def quiet_bars() -> None:
    """No bar for loading weights, which takes a second; downloads keep theirs."""
    if "transformers" in sys.modules:
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
        from transformers.utils import logging

        if not are_progress_bars_disabled():
            logging.disable_progress_bar()
            enable_progress_bars()
