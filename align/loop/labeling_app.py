"""A running labeling app, as commands use it: its client, a machine's token, and what went wrong, told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import UserError
from labeling.client import Client, ClientError, Refused, Unreachable

TOKEN = "ALIGN_LABELING_TOKEN"


@contextmanager
def connected(url: str, token_file: Path | None = None) -> Iterator[Client]:
    """The app at an address; what goes wrong with it inside is a UserError that says what to do."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: name the app's address; it starts with http:// or https://")
    token = _token(token_file)
    try:
        with Client(url, token) as client:
            yield client
    except Unreachable as error:
        raise UserError(
            f"no labeling app answers at {url} ({error}): start it with `align label`, or name its address "
            "with --url. What is done is kept; the same command goes on"
        ) from error
    except Refused as error:
        raise UserError(_refused(url, error)) from error
    except ClientError as error:
        raise UserError(f"--url {error}") from error


def _refused(url: str, error: Refused) -> str:
    if error.status == 401:
        return f"{url} does not know this token: an admin makes one under People"
    if error.status == 403:
        return f"this token is not a machine's ({error}): an admin makes one under People"
    return f"{url} answers {error}: is that the address of `align label`, and is it of this version?"


def _token(file: Path | None) -> str:
    """From the file, or the environment: a command's arguments are seen by everybody on the machine."""
    where, token = f"{TOKEN} in the environment", os.environ.get(TOKEN, "")
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not a text"
            raise UserError(f"{where}: {reason}") from error
    token = token.strip()
    if not token:
        raise UserError(
            f"a machine's token is needed: an admin makes one under People. Put it in {TOKEN}, or in a "
            "file that you name with --token-file"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: is not a token")
    return token
