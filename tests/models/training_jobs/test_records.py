"""Which jobs may run where: one a config and host, each on one host, and what never began may be asked for again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringrift_dagster.home import Home
from ringrift_dagster.models.training_jobs.jobs import Process, TrainingJob
from ringrift_dagster.models.training_jobs.records import JobRefused, claim, following, is_followed, open_records, records, save

JOB = TrainingJob("hex8_2p", "0" * 64, ("train",))
PROCESS = Process(7, 8, "boot", 9.0)


def test_a_record_is_read_as_it_was_saved(home: Home) -> None:
    record = claim(home, JOB, "gpu-1", "anna", at=1.0)
    record.process, record.epoch = PROCESS, 3
    save(home, record)
    assert records(home, JOB.config) == open_records(home) == [record]
    assert (record.training_job, record.job) == (JOB, JOB.id)
    assert claim(home, JOB, "gpu-1", "otto", at=2.0) == record


def test_a_job_that_is_on_one_host_does_not_begin_on_another(home: Home) -> None:
    record = claim(home, JOB, "gpu-1", "anna", at=1.0)
    with pytest.raises(JobRefused, match="is on gpu-1: run it there, or raise `attempt`"):
        claim(home, JOB, "gpu-2", "anna", at=2.0)
    record.process, record.outcome = PROCESS, "failed"
    save(home, record)
    with pytest.raises(JobRefused, match="is on gpu-1"):
        claim(home, JOB, "gpu-2", "anna", at=2.0)
    assert claim(home, replace(JOB, attempt=2), "gpu-2", "anna", at=2.0).host == "gpu-2"


def test_a_host_trains_one_job_of_a_config(home: Home) -> None:
    record = claim(home, JOB, "gpu-1", "anna", at=1.0)
    other = replace(JOB, data_sha256="1" * 64)
    with pytest.raises(JobRefused, match="gpu-1 trains hex8_2p already: job"):
        claim(home, other, "gpu-1", "anna", at=2.0)
    assert claim(home, replace(JOB, config="hex8_3p"), "gpu-1", "anna", at=2.0).config == "hex8_3p"
    record.outcome = "completed"
    save(home, record)
    assert claim(home, other, "gpu-1", "anna", at=2.0).job == other.id


def test_what_never_began_may_be_asked_for_again_anywhere(home: Home) -> None:
    record = claim(home, JOB, "gpu-1", "anna", at=1.0)
    record.outcome = "failed"
    save(home, record)
    again = claim(home, JOB, "gpu-2", "otto", at=2.0)
    assert (again.host, again.outcome, again.requested_at) == ("gpu-2", None, 2.0)
    assert records(home, JOB.config) == [again]


def test_one_follows_a_config_on_a_host(home: Home) -> None:
    record = claim(home, JOB, "gpu-1", "anna", at=1.0)
    assert not is_followed(home, record)
    with following(home, JOB.config, "gpu-1"):
        assert is_followed(home, record)
        with pytest.raises(JobRefused, match="another run follows"), following(home, JOB.config, "gpu-1", wait_seconds=0):
            pass
        with following(home, JOB.config, "gpu-2"):
            pass
    assert not is_followed(home, record)


def test_a_damaged_record_is_left_out(home: Home) -> None:
    record = claim(home, JOB, "gpu-1", "anna", at=1.0)
    (home.models / "training" / JOB.config / f"{record.job}.json").write_text("{")
    assert records(home, JOB.config) == []
