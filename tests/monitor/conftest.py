"""One Visdom server for all tests of monitors."""

import pytest

from tests.monitor.visdom_server import free_port, visdom_server


@pytest.fixture(scope="session")
def port(tmp_path_factory):
    number = free_port()
    with visdom_server(number, tmp_path_factory.mktemp("visdom")):
        yield number
