"""Which files an entry means: folders, globs, splits, and data sets on a Hub that is not there."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from align.data.load import load
from align.data.rows import FileError, read_rows
from align.data.sources import files_of
from align.errors import UserError
from align.recipe.data import Entry, Source
from align.records import Prompt


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def names(folder: Path, path: str | None = None, **fields: Any) -> list[str]:
    found = files_of(Entry(path=str(folder) if path is None else f"{folder}/{path}", **fields))
    assert all(file.shown == str(file.path) for file in found)
    return [file.path.relative_to(folder).as_posix() for file in found]


def refusal(folder: Path, path: str | None = None, **fields: Any) -> str:
    with pytest.raises(FileError) as caught:
        names(folder, path, **fields)
    return caught.value.message


def test_a_folder_means_its_files_of_records_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "a/c.csv.gz", "a/d.PARQUET", "z.json.zst", "README.md", "x.txt", "script.py")
    touch(tmp_path, ".git/x.json", ".hidden.jsonl", "dataset_info.json", "a/state.json")
    assert names(tmp_path) == ["a/c.csv.gz", "a/d.PARQUET", "b.jsonl", "z.json.zst"]


def test_a_glob_means_the_files_that_match(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "a/c.jsonl", "a/b/d.jsonl", "a/x.csv")
    (tmp_path / "folder.jsonl").mkdir()
    assert names(tmp_path, "*.jsonl") == ["b.jsonl"]
    assert names(tmp_path, "**/*.jsonl") == ["a/b/d.jsonl", "a/c.jsonl", "b.jsonl"]
    touch(tmp_path, "[1].jsonl")
    assert names(tmp_path, "[1].jsonl") == ["[1].jsonl"]  # a file that is there means itself


def test_splits_and_subsets_of_a_folder(tmp_path: Path) -> None:
    shards = [f"en/train-0000{i}-of-00002.parquet" for i in range(2)]
    touch(tmp_path, *shards, "en/train_sft-00000-of-00001.parquet", "en/test.jsonl", "de/train/x.csv")
    assert names(tmp_path, subset="en", split="train") == shards
    assert names(tmp_path, subset="en", split="train_sft") == ["en/train_sft-00000-of-00001.parquet"]
    assert names(tmp_path, split="train") == ["de/train/x.csv", *shards]
    assert names(tmp_path, subset="de") == ["de/train/x.csv"]
    assert refusal(tmp_path).startswith("has several splits (train, test): name one by `split`")
    assert refusal(tmp_path, split="dev") == "has no file of a split `dev`; it has test, train, train_sft, x"
    assert refusal(tmp_path, subset="fr") == "has no folder `fr`; it has de/train, en"


def test_a_split_may_be_a_part_of_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "harmless-base-test.jsonl.gz", "helpful-test.jsonl.gz", "contest.jsonl", "harmless.jsonl")
    assert names(tmp_path, split="test") == ["harmless-base-test.jsonl.gz", "helpful-test.jsonl.gz"]


def test_one_table_in_two_kinds_would_count_twice(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "a.parquet")
    assert refusal(tmp_path).startswith("has a.jsonl and a.parquet: if they hold the same records")


def test_what_is_not_there_is_told_with_what_may_be_meant(tmp_path: Path) -> None:
    touch(tmp_path, "rankings.jsonl")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path, "ranking.jsonl") == "no such file; did you mean rankings.jsonl?"
    assert refusal(tmp_path, "x/y.jsonl") == "no such file"
    assert refusal(tmp_path, "*.csv") == "no file has this name"
    assert refusal(tmp_path, "empty") == "holds no .jsonl, .json, .csv, .tsv, .parquet or .arrow file"
    assert "File name too long" in refusal(tmp_path, "a" * 300)
    assert refusal(tmp_path, "a\0b") == "no such file"


def test_a_name_with_brackets_or_stars_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "data[1].jsonl", "data1.jsonl", "run[1]/a.jsonl", "run1/b.jsonl", "x*.jsonl", "xy.jsonl")
    touch(tmp_path, "run[1]/in [2]/c.jsonl", "half[3]-a.jsonl")
    assert names(tmp_path, "data[1].jsonl") == ["data[1].jsonl"]
    assert names(tmp_path, "run[1]/*.jsonl") == ["run[1]/a.jsonl"]
    assert names(tmp_path, "run[1]") == ["run[1]/a.jsonl", "run[1]/in [2]/c.jsonl"]
    assert names(tmp_path, "run[1]/**/*.jsonl") == ["run[1]/a.jsonl", "run[1]/in [2]/c.jsonl"]
    assert names(tmp_path, "*/in [2]/c.jsonl") == ["run[1]/in [2]/c.jsonl"]
    assert names(tmp_path, "half[3]*") == ["half[3]-a.jsonl"]
    assert names(tmp_path, "x*.jsonl") == ["x*.jsonl"]
    assert names(tmp_path, "data[0-9].jsonl") == ["data1.jsonl"]
    (tmp_path / "data[1].jsonl").unlink()
    assert names(tmp_path, "data[1].jsonl") == ["data1.jsonl"]


def test_what_datasets_saved_is_read_without_what_it_cached_there(tmp_path: Path) -> None:
    code = (
        "import sys, datasets\n"
        "rows = [{'prompt': str(i), 'score': i / 2} for i in range(6)]\n"
        "one = datasets.Dataset.from_list(rows)\n"
        "one.save_to_disk(sys.argv[1] + '/one', num_shards=2)\n"
        "datasets.load_from_disk(sys.argv[1] + '/one').filter(lambda row: row['score'] > 1)\n"
        "datasets.DatasetDict(train=one, test=one.select([5, 0])).save_to_disk(sys.argv[1] + '/both')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(path.name.startswith("cache-") for path in (tmp_path / "one").iterdir())
    found = [row["prompt"] for name in names(tmp_path, "one") for _, row in read_rows(tmp_path / name)]
    assert found == list("012345")
    assert refusal(tmp_path, "both") == "has several splits (train, test): name one by `split`"
    (file,) = files_of(Entry(path=f"{tmp_path}/both", split="test"))
    assert [row for _, row in read_rows(file.path)] == [
        {"prompt": "5", "score": 2.5},
        {"prompt": "0", "score": 0.0},
    ]


def test_rows_that_only_datasets_can_select_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "dataset.arrow", "indices.arrow")
    state = {
        "_data_files": [{"filename": "dataset.arrow"}],
        "_indices_data_files": [{"filename": "indices.arrow"}],
    }
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert refusal(tmp_path) == "state.json selects rows of its files: save it again with a newer `datasets`"


def test_a_folder_of_workbooks_is_told_what_to_save(tmp_path: Path) -> None:
    touch(tmp_path, "votes.xlsx", "notes.txt")
    assert "save its sheet as CSV" in refusal(tmp_path)


# The Hub


class Hub:
    """A data set's files, served in place of the Hub; `asked` counts requests for its list."""

    def __init__(self, folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.files, self.asked, self.online = folder, files, 0, True
        self.loaded: list[str] = []
        hub = self

        class Api:
            def dataset_info(self, name: str, revision: str | None, timeout: float) -> SimpleNamespace:
                hub.asked += 1
                if not hub.online:
                    raise OfflineModeIsEnabled("offline")
                assert name == "owner/name"
                return SimpleNamespace(sha="c" * 40, siblings=[SimpleNamespace(rfilename=f) for f in files])

        def download(name: str, file: str, *, repo_type: str, revision: str, local_files_only: bool) -> str:
            assert (name, repo_type, revision) == ("owner/name", "dataset", "c" * 40)
            path = folder / file
            if not path.exists():
                if local_files_only or not hub.online:
                    raise LocalEntryNotFoundError("not here")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[file])
                hub.loaded.append(file)
            return str(path)

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


FILES = {
    "README.md": "",
    "name.py": "raise SystemExit('a loading script ran')",
    "data/train.jsonl": '{"prompt": "a"}\n',
    "data/train.csv": "prompt\na\n",
    "data/test.jsonl": '{"prompt": "b"}\n',
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.chdir(tmp_path)
    return Hub(tmp_path / "hub", dict(FILES), monkeypatch)


def test_a_data_set_on_the_hub_gives_its_wanted_files_only(hub: Hub, tmp_path: Path) -> None:
    source = Source(
        train=[{"path": "owner/name", "split": "train"}], held_out=[{"path": "owner/name", "split": "test"}]
    )
    cache = tmp_path / "cache"
    split = load(Prompt, source, "prompts", cache)
    assert ([r.prompt for r in split.train], [r.prompt for r in split.held_out]) == (["a"], ["b"])
    assert hub.loaded == ["data/train.jsonl", "data/test.jsonl"]
    assert split.train.place(0) == "owner/name/data/train.jsonl:1"
    hub.online = False  # what was found once is found again
    assert load(Prompt, source, "prompts", cache) == split


def test_a_commit_is_asked_for_once(hub: Hub, tmp_path: Path) -> None:
    entry = Entry(path="owner/name", split="train", revision="c" * 40)
    for _ in range(2):
        assert len(files_of(entry, tmp_path / "cache")) == 1
    assert hub.asked == 1


def test_without_a_network_that_is_said_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.online = False
    with pytest.raises(UserError) as caught:
        load(Prompt, Source(train=["owner/name"]), "prompts", tmp_path / "cache")
    assert str(caught.value).splitlines()[1] == (
        "  owner/name: no such file or folder, and the data set owner/name is not complete in the cache on "
        "this machine, and the hub is switched off (HF_HUB_OFFLINE): download it where there is a network, "
        "and name the folder"
    )
    assert not (tmp_path / "cache").exists()


def test_a_data_set_of_nothing_but_a_script_is_refused(hub: Hub) -> None:
    hub.files.clear()
    hub.files["name.py"] = FILES["name.py"]
    with pytest.raises(FileError, match="only a script, which is never run"):
        files_of(Entry(path="owner/name"))


def test_a_local_folder_comes_before_the_hub(hub: Hub, tmp_path: Path) -> None:
    touch(tmp_path, "owner/name/a.jsonl")
    assert [file.shown for file in files_of(Entry(path="owner/name"))] == ["owner/name/a.jsonl"]
    assert hub.asked == 0


def test_a_name_that_no_data_set_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="no such file or folder, and not a valid id of a data set"):
        files_of(Entry(path="owner/na--me.git"))


def test_a_hub_that_hangs_up_is_asked_once(tmp_path: Path) -> None:
    """With the hub's own library, in a process of its own: it reads its environment when it is imported."""
    code = (
        "import sys\nfrom align.data.load import load\nfrom align.errors import UserError\n"
        "from align.recipe.data import Source\nfrom align.records import Prompt\n"
        "try:\n    load(Prompt, Source(train=['nobody/nothing']), 'prompts')\n"
        "except UserError as error:\n    print(error)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",  # as the command line has it
            "HF_ENDPOINT": address,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "HF_HOME": str(tmp_path),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        server.accept()[0].close()
        out, _ = process.communicate(timeout=60)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "the hub cannot be reached (" in out
    assert json.dumps(out).count("\\n") == 2
