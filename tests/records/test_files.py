"""Paths that users give."""

import os
import pathlib

import pytest

from jresnet.errors import InputError
from jresnet.records.files import local_path, write_bytes


@pytest.mark.parametrize("path", ["run", "/a/b", "./x", "sweep[lr=0.1]", "a:b", "C:", "~nobody-of-this-name.", "a/~"])
def test_other_paths_are_left_as_they_are(path):
    if path.startswith("~"):
        with pytest.raises(InputError, match="there is no such home directory: give the full path"):
            local_path(path)
    else:
        assert local_path(path) == pathlib.Path(path)


def test_a_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/mine") == tmp_path / "runs" / "mine"
    assert local_path("~") == tmp_path
    write_bytes("~/file", b"1")
    assert (tmp_path / "file").read_bytes() == b"1"


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://b", "hf://a/b", "file:///tmp/x", "gs:/b", "https://a.b/c"])
def test_a_url_is_refused_before_anything_is_created(monkeypatch, tmp_path, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--workdir .*: is a URL, and jresnet reads and writes local files"):
        local_path(url, "--workdir")
    with pytest.raises(InputError, match="is a URL"):
        write_bytes(url, b"1")
    assert os.listdir(tmp_path) == []
