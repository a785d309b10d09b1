"""A server that does what it is asked, and whose answer is lost on the way: asking again doubles nothing."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from common import MLflowServer, wait_for

from study.execution import Execution
from study.spec import Trial
from study.store.account import Account, Outcome
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import Mirror
from study.store.records import COLUMNS, seal_result

pytestmark = pytest.mark.slow
REQUESTS = ("experiments/create", "runs/create", "runs/log-batch", "runs/update")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    folder = tmp_path_factory.mktemp("server")
    server = MLflowServer(folder, f"sqlite:///{folder / 'mlflow.db'}")
    server.start()
    try:
        yield server
    finally:
        server.kill()


class LosingAnswers:
    """A proxy before a server that passes every request on, and loses the first answer to one of this kind."""

    def __init__(self, port: int, kind: bytes) -> None:
        self.behind, self.kind, self.lost = port, kind, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.behind)) as server, suppress(OSError):
            losing = threading.Event()

            def back() -> None:
                with suppress(OSError):
                    while content := server.recv(65536):
                        if losing.is_set():
                            self.lost += 1
                            break
                        client.sendall(content)
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=back, daemon=True).start()
            while content := client.recv(65536):
                if not self.lost and self.kind in content:
                    losing.set()
                server.sendall(content)


@pytest.mark.parametrize("asked", REQUESTS)
def test_an_answer_that_is_lost_doubles_nothing(
    asked: str, server: MLflowServer, store: Execution, small: Callable[..., Trial]
) -> None:
    proxy = LosingAnswers(server.port, f"POST /api/2.0/mlflow/{asked} ".encode())
    trial, served = small(seed=REQUESTS.index(asked)), replace(store, tracking_uri=proxy.uri)
    records = [{name: float(i) for name in COLUMNS.names} | {"iteration": i} for i in (4, 8)]
    account = Account(started=1000, tags={"profile": asked})
    served.trial_folder(trial.id).mkdir(parents=True)
    seal_result(served.trial_folder(trial.id), Outcome.FINISHED, records, account)
    mirror = Mirror(served, [trial])
    wait_for(mirror.update, "MLflow has it all")
    assert proxy.lost == 1
    (found,) = reader.read(served, [trial])
    assert found.outcome == "finished" and found.records is not None
    points = client.connect(served).get_metric_history(found.run_id, "train_loss")
    assert [point.step for point in points] == [4, 8]
