"""A registry that does not take our credentials: the operator's to mend, so the build is not tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import PYTHON_HANDLER
from tests.e2e.conftest import Start
from tests.e2e.test_oci_registry import HTPASSWD, docker_registry

pytestmark = pytest.mark.e2e


def test_refused_credentials_end_the_build_at_once(start: Start, tmp_path: Path) -> None:
    with (
        docker_registry(tmp_path / "registry", htpasswd=HTPASSWD) as address,
        start(registry=address, registry_username="robot", registry_password="wrong-secret") as server,
    ):
        done = server.wait(server.submit("refused", PYTHON_HANDLER, "python"))
        log = server.log(done.build_id).text
        server.assert_nothing_left()
    assert done.status == pb.BUILD_STATUS_FAILED
    failure = done.failure
    assert (failure.reason, failure.error_class, failure.phase) == ("RegistryRefused", "platform", pb.BUILD_PHASE_PUSH)
    assert done.retries == 0
    assert f"{address}: " in failure.message
    assert "(user robot)" in failure.message
    assert "registry_password" in failure.next
    assert "wrong-secret" not in log + str(done)
