"""Differences against tests, enumeration and simulated populations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, norm

from dynat_ray.evaluation.answers import Answers
from dynat_ray.evaluation.differences import Difference, paired_difference
from dynat_ray.evaluation.matched_pairs import matched_pairs_interval
from dynat_ray.evaluation.second_stage import SecondStage


def answers(right: NDArray[np.bool_], stage: SecondStage | None = None) -> Answers:
    return Answers(np.arange(len(right)), right, stage)


def counted(ahead: int, behind: int, images: int) -> tuple[Answers, Answers]:
    """Two models that differ on so many images."""
    a, b = np.zeros(images, dtype=bool), np.zeros(images, dtype=bool)
    a[:ahead] = True
    b[ahead : ahead + behind] = True
    return answers(a), answers(b)


def test_zero_is_left_out_exactly_where_mcnemars_exact_test_rejects() -> None:
    for ahead in range(0, 22, 3):
        for behind in range(14):
            low, high = matched_pairs_interval(ahead, behind, 200)
            pvalue = binomtest(ahead, ahead + behind).pvalue if ahead + behind else 1.0
            assert (low > 0 or high < 0) == (pvalue <= 0.05), (ahead, behind)


def test_the_interval_is_two_clopper_pearson_distributions_melded() -> None:
    random, count = np.random.default_rng(0), 400_000
    # 40 ahead and 20 behind of 160: McNemar's test rejects, so fewer images that differ count.
    differ, share = random.beta(60, 101, count), random.beta(40, 21, count)
    low, high = matched_pairs_interval(40, 20, 160)
    assert low == pytest.approx(np.quantile(differ * (2 * share - 1), 0.025), abs=1e-3)
    differ, share = random.beta(61, 100, count), random.beta(41, 20, count)
    assert high == pytest.approx(np.quantile(differ * (2 * share - 1), 0.975), abs=1e-3)


@pytest.mark.parametrize("images", [1, 20, 1000])
def test_where_no_image_differs_one_in_forty_may_have(images: int) -> None:
    found = paired_difference([counted(0, 0, images)])
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / images)), abs=1e-4)
    assert (found.points, found.low) == (0, -found.high)
    assert found.verdict == "no difference"


def test_both_ends_lie_within_100_points() -> None:
    assert paired_difference([counted(3, 0, 3)]).high == 100
    assert paired_difference([counted(0, 3, 3)]).low == -100


def test_one_seed_is_held_in_95_of_100_by_enumeration() -> None:
    images = 30
    ends = {
        (ahead, behind): matched_pairs_interval(ahead, behind, images)
        for ahead in range(images + 1)
        for behind in range(images + 1 - ahead)
        # The others are so rare below that they may count as missed.
        if ahead + behind < 22
    }
    for differ in (0.01, 0.05, 0.15, 0.35):
        for share in (0.5, 0.7, 1.0):
            held = sum(
                binom.pmf(ahead + behind, images, differ)
                * binom.pmf(ahead, ahead + behind, share)
                * (low <= differ * (2 * share - 1) <= high)
                for (ahead, behind), (low, high) in ends.items()
            )
            assert held >= 0.95, (differ, share)


class Population:
    """Images and seeds whose effects on two methods are drawn anew for each comparison.

    The first method is right where image, seed and rest add up to more than its threshold.
    """

    def __init__(self, seed_effect: float, lead: float) -> None:
        self.random = np.random.default_rng(5)
        self.seed_effect, self.lead = seed_effect, lead
        # Of image, method and image, and rest; with the seeds' it gives the true accuracies.
        spread = np.hypot(np.sqrt(0.6 + 0.2 + 0.2), seed_effect)
        self.true_difference = 100 * float(norm.cdf(lead / spread) - norm.cdf(0))

    def compare(self, images: int, seeds: int) -> Difference:
        draw = self.random.normal
        image = np.sqrt(0.6) * draw(size=images)
        own = np.sqrt(0.2) * draw(size=(2, images))
        pairs = []
        for _ in range(seeds):
            logits = image + own + np.sqrt(0.2) * draw(size=(2, images))
            logits = logits + self.seed_effect * draw(size=(2, 1)) + [[self.lead], [0]]
            pairs.append((answers(logits[0] > 0), answers(logits[1] > 0)))
        return paired_difference(pairs)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("seed_effect", "lead"), [(0.0, 0.0), (0.03, 0.1), (0.2, 0.1)])
def test_several_seeds_are_held_in_95_of_100(seeds: int, seed_effect: float, lead: float) -> None:
    population = Population(seed_effect, lead)
    found = [population.compare(200, seeds) for _ in range(400)]
    held = [each.low <= population.true_difference <= each.high for each in found]
    assert np.mean(held) >= 0.95


def test_several_seeds_are_held_where_few_images_differ() -> None:
    random, true = np.random.default_rng(0), 0.5
    held = []
    for _ in range(400):
        rights = random.random((3, 400)) < true / 100
        pairs = [(answers(right), answers(np.zeros(400, dtype=bool))) for right in rights]
        found = paired_difference(pairs)
        held.append(found.low <= true <= found.high)
    assert np.mean(held) >= 0.95
    same = answers(np.ones(400, dtype=bool))
    assert paired_difference([(same, same)] * 3).high >= 0.8


def test_seeds_that_agree_give_no_less_than_the_images() -> None:
    a, b = counted(60, 40, 1000)
    one, three = paired_difference([(a, b)]), paired_difference([(a, b)] * 3)
    assert three.points == one.points == pytest.approx(2)
    # The exact interval for one seed is a little longer than it need be.
    assert three.high - three.low >= 0.95 * (one.high - one.low)
    assert (three.seeds, three.images) == (3, 1000)


def sample_survivors(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    margins: NDArray[np.float64],
    random: np.random.Generator,
    tried: int,
) -> Answers:
    """Tries the tenth of the survivors with the smallest margins, and some of the rest."""
    survivors = np.flatnonzero(before)
    order = survivors[np.argsort(margins[survivors])]
    smallest, rest = np.split(order, [len(order) // 10])
    stratum, seen = np.full(len(before), -1, np.int8), np.zeros(len(before), dtype=bool)
    stratum[smallest], stratum[rest] = 0, 1
    seen[smallest] = True
    seen[random.choice(rest, min(tried, len(rest)), replace=False)] = True
    return answers(np.where(seen, after, before), SecondStage(stratum, seen))


@pytest.mark.parametrize(
    ("seeds", "falling", "both"),
    [(1, 0.15, True), (1, 0.01, True), (1, 0.15, False), (3, 0.1, True)],
)
def test_a_sampled_second_stage_is_held_in_95_of_100(
    seeds: int, falling: float, both: bool
) -> None:
    random, lead, images = np.random.default_rng(1), 0.15, 400

    def model(image: NDArray[np.float64], lead: float, whole: bool) -> Answers:
        margins = image + 0.5 * random.normal(size=len(image)) + lead
        before = margins > 0
        after = before & (random.random(len(image)) >= falling * np.exp(-2 * margins.clip(0)))
        return answers(after) if whole else sample_survivors(before, after, margins, random, 30)

    points = np.linspace(0, 8, 4001)
    spread = np.hypot(0.9, 0.5)
    true_a, true_b = (
        100
        * float(
            np.trapezoid(
                norm.pdf(points, shift, spread) * (1 - falling * np.exp(-2 * points)), points
            )
        )
        for shift in (lead, 0.0)
    )
    held = []
    for _ in range(250):
        image = 0.9 * random.normal(size=images)
        pairs = [(model(image, lead, False), model(image, 0, not both)) for _ in range(seeds)]
        found = paired_difference(pairs)
        held.append(found.low <= true_a - true_b <= found.high)
    assert np.mean(held) >= 0.95


def test_images_that_were_not_tried_count_as_those_that_were() -> None:
    right = np.array([True] * 8 + [False] * 12)
    stratum = np.array([0] * 2 + [1] * 8 + [-1] * 10, dtype=np.int8)
    tried = np.zeros(20, dtype=bool)
    # Both of the first stratum, 4 of 8 in the second, of which 2 fell.
    tried[[0, 1, 6, 7, 8, 9]] = True
    sampled = answers(right, SecondStage(stratum, tried))
    assert sampled.chances().sum() == pytest.approx(2 + 8 / 2)
    whole = answers(np.zeros(20, dtype=bool))
    found = paired_difference([(sampled, whole)])
    assert found.points == pytest.approx(100 * 6 / 20)
    known = answers(np.array([True] * 6 + [False] * 14))
    exact = paired_difference([(known, whole)])
    assert found.low < exact.low
    assert found.high > exact.high


def test_other_images_are_our_own_mistake() -> None:
    a, b = counted(1, 1, 5)
    with pytest.raises(AssertionError, match="other images"):
        paired_difference([(a, Answers(b.index + 1, b.right))])
