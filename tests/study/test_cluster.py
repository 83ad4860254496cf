"""Studies on a Ray cluster: two nodes on one machine, which take most of a minute to start."""

import os
import signal
import sys

import pytest
import ray
from ray.cluster_utils import Cluster

from architectures import TINY
from skipshift.errors import SkipshiftError
from skipshift.specs import ProfileSpec
from skipshift.study import study
from skipshift.study.cluster import pack, settle, unpack
from skipshift.study.grid import expected_inputs
from skipshift.study.opening import open_study
from skipshift.study.study import run_study
from skipshift.study_specs import ExecutionSpec, StudySpec, TrainingSpec

pytestmark = [
    pytest.mark.ray,
    # Ray's own: sockets and processes that it leaves to the collector
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def spec(small_set):
    return StudySpec(
        manifest=small_set,
        encoders=(TINY,),
        skips=("baseline", "L1-pruned", "L4-pruned"),
        folds=2,
        run_folds=(0,),
        shifts=(),
        profile_shifts=(),
        training=TrainingSpec(encoder_weights=None, epochs=2, crop=32, precision="fp32"),
        profile=ProfileSpec(null_draws=5, permutation_draws=9),
        threads=1,
    )


def test_a_packed_study_is_the_same_study_in_another_place(spec, tmp_path):
    here = open_study(spec, tmp_path / "out")
    away, files = pack(here)
    assert len(files) == 2 * len(here.cases)
    unpack(files, tmp_path / "node" / "data")
    there = settle(away, tmp_path / "node")
    run = here.runs()[0]
    assert expected_inputs(there, run) == expected_inputs(here, run)
    for kind in ("image", "mask"):
        for a, b in zip(here.cases[kind], there.cases[kind], strict=True):
            assert open(a, "rb").read() == open(b, "rb").read()  # noqa: PTH123, SIM115


def node_loss():
    """What each worker process runs first: away from the head, its node dies after one epoch.

    Made here because Ray sends functions of a module by name, and its workers know no tests.
    """

    def setup():
        def listen(event, arguments):
            if event != "skipshift.written" or not arguments[0].endswith("last.ckpt"):
                return
            if ray.get_runtime_context().get_node_id() != os.environ["HEAD_NODE"]:
                os.kill(os.getppid(), signal.SIGKILL)  # the raylet, which is the node
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(listen)

    return setup


@pytest.mark.slow  # a cluster of two nodes, a worker process each
def test_a_node_that_dies_in_mid_study_changes_nothing(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "write_report", lambda out: out / "report.html")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    run_study(spec, tmp_path / "alone")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        doomed = cluster.add_node(num_cpus=1)
        hooks = {
            "worker_process_setup_hook": node_loss(),
            "env_vars": {"HEAD_NODE": cluster.head_node.node_id},
        }
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=hooks)
        run_study(spec, tmp_path / "out", ExecutionSpec(on="ray"))
        assert "raylet" not in [name for name, _ in doomed.live_processes()]
    finally:
        ray.shutdown()
        cluster.shutdown()
    for table in (tmp_path / "alone" / "tables").iterdir():
        assert (tmp_path / "out" / "tables" / table.name).read_bytes() == table.read_bytes()


def test_an_address_without_a_cluster_is_named(spec, tmp_path):
    with pytest.raises(SkipshiftError, match=r"--address 127\.0\.0\.1:1: no Ray cluster"):
        run_study(spec, tmp_path / "out", ExecutionSpec(on="ray", address="127.0.0.1:1"))
