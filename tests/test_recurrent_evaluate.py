"""Choices and verdicts, against SciPy, simulations whose truth is known, and cases worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import signal, stats

from keras_a2 import training
from keras_a2.errors import UserError
from keras_a2.recurrent import baselines, combination, evaluate, intervals, report, verdicts

REPEATS = 300
FALSE_REPEATS = 1000


def autocorrelated(rng, n: int, rho: float, overlap: int = 1) -> np.ndarray:
    """A stationary first-order autoregression, summed over ``overlap`` steps as overlapping forecasts' errors are."""
    noise = rng.normal(size=n + overlap + 200)
    return signal.lfilter(np.ones(overlap) / overlap, [1, -rho], noise)[-n:]


def counted(n: int, rho: float, ahead: int, gain: float = 0.0, overlap: int = 1, repeats: int = REPEATS):
    """Verdicts on forecasts whose loss is 20 against a reference of ``20 + gain``, in autocorrelated noise."""
    rng, given = np.random.default_rng([n, ahead]), []
    for _ in range(repeats):
        reference = 20 + gain + autocorrelated(rng, n, rho, overlap)
        given.append(verdicts.compare(20 + autocorrelated(rng, n, rho, overlap)[np.newaxis], reference, ahead))
    assert all((r["skill_ci95"] is None) == (r["verdict"] == "too short to tell") for r in given)
    return {word: sum(r["verdict"] == word for r in given) for word in ("better", "worse", "too short to tell")}


@pytest.mark.parametrize("n", [17, 50, 73, 200, 400, 1700])
@pytest.mark.parametrize(
    ("rho", "ahead", "overlap"), [(0.95, 1, 1), (0.95, 7, 1), (0.95, 24, 1), (0.5, 1, 1), (0, 1, 1), (0, 6, 6)]
)
def test_equal_forecasts_get_a_false_verdict_in_seven_per_cent_at_most(n, rho, ahead, overlap):
    counts = counted(n, rho, ahead, overlap=overlap, repeats=FALSE_REPEATS)
    assert counts["better"] + counts["worse"] <= stats.binom.ppf(0.95, FALSE_REPEATS, 0.07)


def test_fewer_than_ten_independent_stretches_cannot_tell_however_large_the_difference():
    assert counted(19, 0, 1, gain=10)["too short to tell"] == REPEATS
    assert counted(400, 0, 24, gain=10)["too short to tell"] == REPEATS
    assert counted(200, 0.95, 1, gain=10)["too short to tell"] > 0.95 * REPEATS
    result = verdicts.compare(np.ones((1, 19)), np.full(19, 2.0), 1)
    assert (result["skill"], result["skill_ci95"], result["dm_p_value"]) == (0.5, None, None)


def test_real_differences_are_seen():
    # The noise of a mean of n is its long-run deviation / sqrt(n): sqrt(2) / (1 - rho) / sqrt(n) for two of them.
    assert counted(50, 0, 1, gain=5 * np.sqrt(2 / 50))["better"] > 0.9 * REPEATS
    assert counted(1700, 0.95, 1, gain=4 * np.sqrt(2 / 1700) / 0.05)["better"] > 0.9 * REPEATS
    assert counted(1600, 0, 24, gain=4 * np.sqrt(2 / 1600), overlap=24)["better"] > 0.9 * REPEATS
    assert counted(1600, 0, 24, gain=-4 * np.sqrt(2 / 1600), overlap=24)["worse"] > 0.9 * REPEATS


def test_with_every_cosine_the_test_is_the_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 50) ** 2, rng.normal(1.2, 1, 50) ** 2
    assert verdicts.diebold_mariano(a, b, 49) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert verdicts.standard_error(a, 49) == pytest.approx(stats.sem(a), rel=1e-12)


def test_the_standard_error_of_an_autoregression_is_the_known_one():
    rng = np.random.default_rng(0)
    known = 1 / (1 - 0.9) / np.sqrt(4000)  # long-run deviation of the noise, divided by 1 - rho
    estimates = [verdicts.standard_error(autocorrelated(rng, 4000, 0.9), 60) for _ in range(100)]
    assert np.sqrt(np.mean(np.square(estimates))) == pytest.approx(known, rel=0.1)


def test_skill_and_its_interval_by_simulation():
    rng = np.random.default_rng(0)
    results = [
        verdicts.compare(7 + autocorrelated(rng, 600, 0.5)[np.newaxis], 10 + autocorrelated(rng, 600, 0.5), 3)
        for _ in range(REPEATS)
    ]
    covered = sum(low <= 0.3 <= high for low, high in (r["skill_ci95"] for r in results))
    low, high = stats.binom.ppf([0.001, 0.999], REPEATS, 0.95)
    assert low - 0.02 * REPEATS <= covered <= high
    assert np.mean([r["skill"] for r in results]) == pytest.approx(0.3, abs=0.01)


def test_equal_errors_differ_by_nothing_and_a_reference_without_errors_has_no_skill():
    white = np.abs(np.random.default_rng(0).normal(size=100))
    same = verdicts.compare(white[np.newaxis], white, 1)
    assert (same["skill"], same["skill_ci95"], same["dm_p_value"], same["verdict"]) == (0, [0, 0], 1.0, "not shown")
    perfect = verdicts.compare(white[np.newaxis], np.zeros(100), 1)
    assert (perfect["skill"], perfect["skill_ci95"], perfect["verdict"]) == (None, None, "not shown")


def test_seeds_give_one_interval_and_one_p_value_from_the_mean_loss():
    rng = np.random.default_rng(0)
    losses, reference = 8 + rng.normal(size=(3, 200)), 10 + rng.normal(size=200)
    together, mean = verdicts.compare(losses, reference, 2), verdicts.compare(losses.mean(axis=0)[None], reference, 2)
    alone = [verdicts.compare(loss[None], reference, 2)["skill"] for loss in losses]
    assert together.pop("skill_seeds") == pytest.approx(alone)
    assert together == mean
    assert together["skill"] == pytest.approx(np.mean(alone))


class Off:
    """Forecasts that miss by so much, in standard deviations."""

    def __init__(self, name: str, off: float):
        self.name, self.off, self.errors = name, off, np.ones((1, 1))

    def forecast(self, windows, origins):
        return windows.actual(origins) + np.asarray(self.off, np.float32)


class Seed(Off):
    """A trained network of one seed; ``off`` may differ by window."""

    seconds, parameters = 1.0, 7
    history = training.History([{"epoch": 0}])


NAIVES = [Off("persistence", 2), Off("seasonal_naive", 1)]


def validated(windows, *seeds: Off, loss: str = "mae", naives=NAIVES):
    trained = {"gru": [[seed] for seed in seeds]}
    choices = evaluate.on_validation(loss, windows, [windows], naives, 24, [Off("ridge", 0.3)], trained)
    return trained, choices


@pytest.mark.parametrize("loss", ["mae", "mse"])
def test_validation_weighs_forecasts_that_err_to_both_sides_so_that_errors_cancel(windows, loss):
    _, choices = validated(windows, Off("gru", -0.2), loss=loss)
    ((naive, ridge, network),) = choices.weights["gru"]
    assert (naive, ridge, network) == pytest.approx((0, 0.4, 0.6))
    assert (choices.best_naive, choices.best_naive_by_lead) == ("seasonal_naive", ["seasonal_naive"] * 6)
    assert choices.metrics["gru+combined"]["mae_standardized"] < 0.05


def test_each_model_has_its_best_seed_by_the_loss_of_training(windows):
    n = len(windows.origins["validation"])
    steady, rare = np.full((n, 1, 1), 0.5), np.zeros((n, 1, 1))
    rare[: n // 4] = 1.2  # lower mean, higher mean square
    for loss, best in (("mae", 1), ("mse", 0)):
        _, choices = validated(windows, Seed("gru", steady), Seed("gru", rare), loss=loss)
        assert choices.best_seed["gru"] == best
    trained, choices = validated(windows, Seed("gru", 0.1), Seed("gru", -0.3))
    assert [choices.best_seed[name] for name in ("gru", "gru+combined")] == [0, 1]  # the second errs against ridge's
    metrics, (published,) = evaluate.on_test({"seed": 5}, windows, [80.0, 95.0], Off("ridge", 0.3), trained, choices)
    assert [metrics["models"][name]["best_seed"] for name in ("gru", "gru+combined")] == [5, 6]
    assert metrics["published"] == {"gru": "gru+combined"}
    assert (published.name, published.seed) == ("gru+combined", 6)
    assert np.abs(evaluate.errors(windows, published.forecast, "test")).mean() < 0.05
    test = metrics["models"]["gru"]["test"]
    assert test["mae_standardized_seeds"] == pytest.approx([0.1, 0.3], rel=1e-4)
    assert test["skill"] == pytest.approx(0.8, rel=1e-4)
    assert test["skill_seeds"] == pytest.approx([0.9, 0.7], rel=1e-4)
    assert not [key for key in test if key.endswith(("ci95_seeds", "p_value_seeds"))]


def test_metrics_by_hand(windows):
    error = np.zeros((4, 6, 1))
    error[:, 0] = 2.0
    result = evaluate.metrics(windows, error)
    scale = windows.target_scale[0]
    assert result["mae_standardized"] == pytest.approx(2 / 6)
    assert result["mse"] == pytest.approx(4 / 6 * scale**2)
    assert result["mae_by_lead"] == pytest.approx([2 * scale, 0, 0, 0, 0, 0])


def test_the_best_naive_is_chosen_per_lead():
    near, far = np.ones((5, 2, 1)), np.ones((5, 2, 1))
    near[:, 1], far[:, 0] = 3, 3
    errors = {"persistence": near, "seasonal_naive": far}
    best = evaluate.best_by_lead(errors)
    assert best == ["persistence", "seasonal_naive"]
    assert (evaluate.merge_by_lead(errors, best) == 1).all()


def test_the_hardest_naive_on_the_test_split_is_quoted(windows):
    """Validation prefers the seasonal naive, the test split persistence."""

    class Turning(Off):
        def forecast(self, windows, origins):
            off = 3 - self.off if origins[0] == windows.origins["test"][0] else self.off
            return windows.actual(origins) + np.float32(off)

    naives = [Turning("persistence", 2), Turning("seasonal_naive", 1)]
    trained, choices = validated(windows, Seed("gru", 0.2), naives=naives)
    metrics, _ = evaluate.on_test({"seed": 5}, windows, [80.0], Off("ridge", 0.3), trained, choices)
    assert metrics["best_naive"] == "seasonal_naive"
    assert metrics["hardest_naive"] == "persistence"
    text = report.headline(metrics, "gru+combined")
    assert text.index("persistence") < text.index("the naive chosen on validation")
    assert "persistence" in report.card_headline(metrics, "gru+combined")
    assert "against persistence" in report.result_rows(metrics)[0]


def test_a_gain_that_validation_cannot_tell_from_luck_leaves_the_naive():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 4, 1))
    walk = np.cumsum(rng.normal(size=(60, 1, 1)), axis=0)
    worse, lucky = truth + 3, truth + 1 + 0.02 * walk  # the second errs less, in one long wave
    naive = truth + 1
    assert combination.choose_weights([naive, worse, worse], truth, "mae", 4) == (1, 0, 0)
    assert combination.choose_weights([naive, worse, lucky], truth, "mae", 20)[0] > 0.5
    better = truth + rng.normal(0, 0.1, truth.shape)
    weights = combination.choose_weights([naive, worse, better], truth, "mae", 4)
    assert sum(weights) == pytest.approx(1)
    assert weights[2] > 0.95
    luck = (0.0, 20.0)  # more than it gains
    assert combination.choose_weights([naive, worse, better], truth, "mae", 4, 1, luck) == (1, 0, 0)


def stopped(*curves):
    """Networks of as many folds with these validation errors by epoch."""
    histories = [training.History([{"epoch": n, "validation_mae": e} for n, e in enumerate(c)]) for c in curves]
    return [SimpleNamespace(history=history) for history in histories]


def regression(*errors):
    """A regression with these sums of squared errors of each fold by candidate."""
    return SimpleNamespace(errors=np.array(errors, float))


def test_a_fold_does_not_judge_what_it_chose():
    # The mean of the others is lowest after epochs 2, 1 and 1: errors of 3, 5 and 4 instead of 2, 4 and 3.
    none, trained = regression([1], [1], [1]), stopped([4, 2, 3], [6, 5, 4], [5, 4, 3])
    assert combination.luck(none, trained, "mae") == pytest.approx((0, (3 / 2 * 5 / 4 * 4 / 3) ** (1 / 3) - 1))
    assert combination.luck(regression([3, 1]), stopped([4, 2, 3]), "mae") == (0, 0)
    # A training that ended early stays as it was; one without an error gains nothing.
    trained = stopped([2, 4], [0, 0, 0], [3, 2, 1])
    assert combination.luck(none, trained, "mae") == pytest.approx((0, (2 * 1 * 3) ** (1 / 3) - 1))
    # Together folds prefer candidate 1 (sums 12, 9, 18); without the first fold 0 wins (3, 5), without another one 1.
    ridge, trained = regression([9, 4, 8], [1, 2, 5], [2, 3, 5]), stopped([1], [1], [1])
    assert combination.luck(ridge, trained, "mae") == pytest.approx(((3 / 2) ** (1 / 3) - 1, 0))


def test_epochs_chosen_by_chance_gain_nothing_on_average():
    rng, gains = np.random.default_rng(0), []
    for _ in range(300):
        curves = np.hstack([np.ones((3, 1)), 1 + 0.1 * rng.normal(size=(3, 20))])  # epochs that differ by luck alone
        _, share = combination.luck(regression([1], [1], [1]), stopped(*curves.tolist()), "mae")
        gains.append([1 - curves.min(axis=1).mean(), 1 - curves.min(axis=1).mean() * (1 + share)])
    flattering, honest = np.mean(gains, axis=0)
    assert flattering > 0.15
    assert abs(honest) < 0.01


def test_the_window_naive_is_the_best_naive_as_far_as_the_window_reaches(windows):
    origins = windows.origins["test"]
    seasonal = baselines.SeasonalNaive(24).forecast(windows, origins)
    inside = combination.WindowNaive(windows, 24, ["seasonal_naive"] * 6)
    np.testing.assert_allclose(inside.forecast(windows, origins), seasonal)
    own = windows.seen(origins)[:, :, windows.target_columns[0]]
    np.testing.assert_allclose(own @ inside.kernel(windows.look_back), seasonal[..., 0], atol=1e-6)
    beyond = combination.WindowNaive(windows, 48, ["seasonal_naive"] * 6)
    assert beyond.short
    np.testing.assert_allclose(beyond.forecast(windows, origins), baselines.Persistence().forecast(windows, origins))


def test_crps_of_normal_noise_is_the_closed_form():
    rng = np.random.default_rng(0)
    past, new = rng.normal(size=(20_000, 1, 1)), rng.normal(size=(20_000, 1, 1))
    wanted = intervals.probabilities(list(intervals.GRID))
    ends = intervals.quantiles(past, np.ones((20_000, 1)), wanted)

    def crps(values):
        return 2 * np.mean([intervals.pinball(values, *each).mean() for each in zip(ends, wanted, strict=True)])

    # The mean over x of CRPS(N(0, 1), x) is 1 / sqrt(pi) (Gneiting & Raftery 2007).
    assert crps(new) == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)
    x = 0.7  # and of one value: x (2 Phi(x) - 1) + 2 phi(x) - 1 / sqrt(pi)
    exact = x * (2 * stats.norm.cdf(x) - 1) + 2 * stats.norm.pdf(x) - 1 / np.sqrt(np.pi)
    assert crps(np.full((1, 1, 1), x)) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_conformal_intervals_cover_new_residuals_as_promised(n):
    rng, inside = np.random.default_rng(n), []
    for _ in range(200):
        spread = rng.uniform(0.5, 2, (n + 50, 1))
        noise = rng.standard_t(3, (n + 50, 2, 1)) * spread[:, np.newaxis]
        low, high = intervals.quantiles(noise[:n], spread[:n], intervals.probabilities([80.0]))
        new, wide = noise[n:], spread[n:, np.newaxis]
        inside.append(((new >= low * wide) & (new <= high * wide)).mean())
    assert 0.795 < np.mean(inside) < 0.8 + 3 / n + 0.01


def test_intervals_follow_a_series_that_grows_restless_and_see_nothing_ahead():
    rng, future = np.random.default_rng(0), np.array([1, 2, 3])
    origins = np.delete(np.arange(3000), [7, 8, 500])
    noise = rng.normal(size=(len(origins), 3, 1)) * np.linspace(1, 4, len(origins))[:, None, None]
    noise[100, 1] = np.nan
    start = intervals.quantiles(rng.normal(size=(500, 3, 1)), np.ones((500, 1)), intervals.probabilities([80.0]))
    spread, known = np.ones((len(origins), 1)), np.isfinite(noise)
    lower, upper = intervals.adapted(start, 80.0, noise, spread, origins, future, origins)
    inside = ((noise >= lower) & (noise <= upper))[known]
    assert inside.mean() == pytest.approx(0.8, abs=0.03)
    still = ((noise >= start[0]) & (noise <= start[1]))[known]
    assert still.mean() < 0.5
    changed = noise.copy()
    changed[2000:, 2] = 99  # what is three rows ahead of these origins
    again = intervals.adapted(start, 80.0, changed, spread, origins, future, origins)
    same = origins < origins[2000] + 3
    np.testing.assert_array_equal(again[:, same], np.stack([lower, upper])[:, same])
    assert (again[:, -1, 2] > np.stack([lower, upper])[:, -1, 2]).all()


def test_an_interval_moves_as_by_hand():
    start = np.array([-1.0, 1.0]).reshape(2, 1, 1)  # a width of 2
    new = np.array([0.0, 5.0, np.nan]).reshape(3, 1, 1)
    path = intervals.adapted(start, 80.0, new, np.full((3, 1), 2.0), np.arange(3), np.array([1]), np.arange(4))
    step = 2 * intervals.RATE  # inside: both ends move inwards by a tenth of it; above: up by 0.1 and 0.9
    assert path[0, :, 0, 0] == pytest.approx(np.array([-1, -1 + 0.1 * step, -1 + 0.2 * step, -1 + 0.2 * step]))
    assert path[1, :, 0, 0] == pytest.approx(np.array([1, 1 - 0.1 * step, 1 + 0.8 * step, 1 + 0.8 * step]))


def test_the_interval_score_and_mase_by_hand(windows):
    score = intervals.interval_score(np.array([0.0, 3.0, -4.0]), np.full(3, -2.0), np.full(3, 2.0), 95.0)
    assert score == pytest.approx([4, 4 + 40 * 1, 4 + 40 * 2])  # width, and 2 / 0.05 times what lies outside
    end = windows.bounds["train"][1]
    truth = windows.truth[:end, 0].astype(float)
    expected = np.mean([abs(truth[t] - truth[t - 24]) for t in range(24, end)])
    assert intervals.naive_scale(windows, 24) == pytest.approx([expected])


def test_levels_are_read_in_order_and_checked():
    assert evaluate.levels("95,80,80") == [80.0, 95.0]
    for wrong in ("", "a", "0", "100", "80;95"):
        with pytest.raises(UserError, match="--levels"):
            evaluate.levels(wrong)
