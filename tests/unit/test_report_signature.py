"""The signature of reports as the example receiver of the documentation verifies it, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import config
from builder.control.reports import signature
from builder.errors import BuildError
from examples.report_receiver import TOLERANCE_MS, Versions, is_signed

OLD, NEW, NOW = "the old key of reports", "the new key of reports", 1_800_000_000_000
BODY = '{"buildId":"b","sequence":"1","name":"\u00fc"}'.encode()


def test_the_header_has_the_form_that_is_documented() -> None:
    """As another program computes it: printf '1.x' | openssl dgst -sha256 -hmac key."""
    digest = "fc4913c41a7bf793267e2a384f3261c9436ec2cd097bd745e7b0d99113f510ec"
    assert signature(["key"], 1, b"x") == f"t=1,v1={digest}"


@pytest.mark.parametrize("known", [[OLD], [NEW], [OLD, NEW], [NEW, OLD]])
@pytest.mark.parametrize("used", [[OLD], [NEW], [OLD, NEW], [NEW, OLD]])
def test_one_key_in_common_is_enough(known: list[str], used: list[str]) -> None:
    """So keys are rotated without a report lost: the new one on one side, then on the other, then the old one goes."""
    assert is_signed(signature(used, NOW, BODY), BODY, known, NOW) == bool({*known} & {*used})


@pytest.mark.parametrize(
    ("header", "body", "now"),
    [
        ("", BODY, NOW),
        (signature([OLD], NOW, BODY), BODY + b" ", NOW),
        (signature([OLD], NOW, BODY), BODY, NOW + TOLERANCE_MS + 1),
        (signature([OLD], NOW, BODY), BODY, NOW - TOLERANCE_MS - 1),
        (signature([OLD], NOW, BODY).replace(f"t={NOW}", f"t={NOW + 1}"), BODY, NOW),
        (signature([OLD], NOW, BODY) + f",t={NOW}", BODY, NOW),
        (f"t={NOW},v1=\u00fc", BODY, NOW),
        (f"t={NOW}", BODY, NOW),
        ("t=\u0661,v1=00", BODY, NOW),
    ],
    ids=["none", "another body", "late", "early", "another time", "two times", "no hex", "no digest", "no time"],
)
def test_what_is_not_signed_is_refused(header: str, body: bytes, now: int) -> None:
    assert not is_signed(header, body, [OLD], now)


def test_a_report_that_is_repeated_or_late_is_no_news() -> None:
    versions = Versions()
    sent = [("a", 1), ("a", 1), ("b", 2), ("b", 1), ("a", 3), ("a", 2)]
    news = [one for one in sent if versions.apply({"buildId": one[0], "sequence": str(one[1])})]
    assert news == [("a", 1), ("b", 2), ("a", 3)]


@pytest.mark.parametrize("token", ["two words", "a\nline", "l\u00edne"])
def test_a_token_that_no_header_carries_is_refused_without_its_value(token: str) -> None:
    """The HTTP client's own words would repeat it with each report, in the log."""
    with pytest.raises(BuildError, match="report_token") as refused:
        config.load({"report_token": token}, {"HOME": "/nowhere"})
    assert token not in refused.value.message


def test_keys_are_secrets_come_from_files_and_are_two_at_most(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{OLD.replace(' ', '-')}\n{NEW.replace(' ', '-')}\n")
    loaded = config.load({}, {"HOME": "/nowhere", "IGNITE_BUILDER_REPORT_KEYS_FILE": str(file)})
    assert loaded.settings.report_keys == (OLD.replace(" ", "-"), NEW.replace(" ", "-"))
    assert [value for name, value, _ in loaded.describe() if name == "report_keys"] == ["***"]
    for keys in ((OLD, NEW, OLD + NEW), ("short",), ("",)):
        with pytest.raises(BuildError, match="report_keys") as refused:
            config.load({"report_keys": keys}, {"HOME": "/nowhere"})
        assert refused.value.reason == "InvalidRequest" and OLD not in refused.value.message
