import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.errors import InputError
from spatialvla.evaluation.play.jobs import plan_jobs
from spatialvla.evaluation.results.plan import EpisodeId, Shard, plan_episodes

tasks = st.lists(st.integers(0, 89), max_size=12, unique=True)


@given(tasks, st.integers(1, 50), st.integers(1, 40))
def test_shards_are_the_whole_without_overlap(numbers, episodes_per_task, count):
    whole = plan_episodes(numbers, episodes_per_task)
    shards = [plan_episodes(numbers, episodes_per_task, Shard(i, count)) for i in range(1, count + 1)]
    assert [episode for shard in shards for episode in shard] == whole
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert len(whole) == len(numbers) * episodes_per_task == len(set(whole))


def test_a_split_does_not_depend_on_the_order_of_the_tasks():
    assert plan_episodes([7, 2, 5], 3, Shard(2, 3)) == plan_episodes([2, 5, 7], 3, Shard(2, 3))
    assert plan_episodes([7, 2, 5], 3, Shard(2, 3)) == [EpisodeId(5, 0), EpisodeId(5, 1), EpisodeId(5, 2)]


@given(tasks, st.integers(1, 20), st.integers(1, 10), st.integers(1, 10), st.data())
def test_jobs_cover_what_is_planned_and_split_only_for_idle_workers(numbers, per_task, workers, count, data):
    shard = Shard(data.draw(st.integers(1, count)), count)
    episodes = plan_episodes(numbers, per_task, shard)
    jobs = plan_jobs("s", episodes, workers)
    covered = [EpisodeId(job.task, state) for job in jobs for state in job.start_states]
    assert sorted(covered) == episodes
    assert all(job.start_states for job in jobs)
    if len({episode.task for episode in episodes}) >= workers:
        assert len(jobs) == len({job.task for job in jobs})


def test_one_task_is_split_for_several_workers():
    assert [job.start_states for job in plan_jobs("s", plan_episodes([0, 1], 4), 2)] == [(0, 1, 2, 3)] * 2
    assert [job.start_states for job in plan_jobs("s", plan_episodes([7], 5), 3)] == [(0, 3), (1, 4), (2,)]
    assert len(plan_jobs("s", plan_episodes([0], 2), 8)) == 2


def test_shards_are_written_number_of_count():
    assert Shard.parse("2/4") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2/4"
    for text in ("0/4", "5/4", "2", "a/b", "2/0", "-1/3"):
        with pytest.raises(InputError, match=r"(?i)shard"):
            Shard.parse(text)
