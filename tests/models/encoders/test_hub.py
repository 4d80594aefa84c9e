"""Hub names on a machine without a network."""

import socket

import pytest
from huggingface_hub import constants

from nas.common.errors import EncoderError
from nas.models.encoders.pretrained import check_hub, load_tokenizer


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def refuse(host: str, port: object) -> object:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_name_that_is_not_cached_is_one_error_at_once(no_network: list[str]) -> None:
    with pytest.raises(
        EncoderError, match=r"nobody/nothing.*huggingface\.co cannot be reached, and the name is not cached"
    ):
        load_tokenizer("nobody/nothing")
    assert no_network == ["huggingface.co"], "the hub's client would have asked again and again"


@pytest.mark.parametrize("how", ["offline", "proxy"])
def test_hub_is_not_looked_up_where_that_says_nothing(
    how: str, no_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://127.0.0.1:1"} if how == "proxy" else {})
    check_hub()
    assert not no_network
