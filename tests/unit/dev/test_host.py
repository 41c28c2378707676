"""What stops the cluster, in words."""

import pytest

from dev.cluster.machine.host import Host, obstacles


@pytest.mark.parametrize(
    ("host", "words"),
    [
        pytest.param(Host("Linux", True, (), True), [], id="a ready machine has no obstacle"),
        pytest.param(
            Host("Linux", True, ("runc",), True), [], id="root with apt-get installs what is missing"
        ),
        pytest.param(Host("Darwin", False, ("runc",), False), ["needs Linux", "Darwin"], id="not Linux"),
        pytest.param(Host("Linux", False, (), True), ["needs root", "sudo"], id="not root"),
        pytest.param(
            Host("Linux", True, ("containerd", "runc"), False),
            ["containerd runc", "install"],
            id="no apt-get",
        ),
        pytest.param(
            Host("Linux", False, ("runc",), True), ["root", "runc"], id="everything is said at once"
        ),
    ],
)
def test_obstacles(host, words):
    text = "; ".join(obstacles(host))
    assert bool(text) == bool(words)
    for word in words:
        assert word in text
