"""Dice, IoU and their loss: properties on random masks, and agreement with torchmetrics, scikit-learn and MONAI."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

from cellseg import DiceLoss
from cellseg.losses import DiceBCELoss, FocalLoss, soft_dice
from cellseg.metrics import SegmentationScores, image_scores
from cellseg.storage.errors import InputError

SCORES = ("dice", "iou", "soft_dice")


@st.composite
def batches(draw):
    """Probabilities and targets, with empty and full masks among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    images = draw(st.integers(1, 4))
    shares = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=images, max_size=images)))
    target = (torch.rand(images, 1, 6, 5, generator=generator) < shares[:, None, None, None]).float()
    probability = torch.rand(images, 1, 6, 5, generator=generator) * draw(st.sampled_from([0.3, 1.0]))
    return probability, target


@given(batches())
def test_scores_lie_in_0_1_and_iou_follows_from_dice(batch):
    scores = image_scores(*batch)
    for name in SCORES:
        assert ((scores[name] >= 0) & (scores[name] <= 1)).all()
    torch.testing.assert_close(scores["iou"], scores["dice"] / (2 - scores["dice"]))


@given(batches())
def test_scores_are_symmetric_and_1_for_a_mask_against_itself(batch):
    first, second = (batch[0] > 0.5).float(), batch[1]
    for name in SCORES:
        assert torch.equal(image_scores(first, second)[name], image_scores(second, first)[name])
        assert (image_scores(first, first)[name] == 1).all()


@given(batches())
def test_means_and_pooled_scores_agree_with_torchmetrics(batch):
    probability, target = batch
    ours = SegmentationScores()
    per_image = BinaryF1Score(zero_division=1)
    pooled, pooled_iou = BinaryF1Score(zero_division=1), BinaryJaccardIndex(zero_division=1)
    dice = []
    for p, t in zip(probability, target, strict=True):
        ours.update(image_scores(p[None], t[None]))
        dice.append(per_image(p, t.int()))
        pooled.update(p, t.int())
        pooled_iou.update(p, t.int())
    scores = ours.compute()
    torch.testing.assert_close(scores["dice"], torch.stack(dice).mean())
    torch.testing.assert_close(scores["dice_pooled"], pooled.compute())
    torch.testing.assert_close(scores["iou_pooled"], pooled_iou.compute())


def test_batch_size_does_not_change_the_scores():
    torch.manual_seed(0)
    probability, target = torch.rand(6, 1, 8, 8), (torch.rand(6, 1, 8, 8) > 0.7).float()
    together, apart = SegmentationScores(), SegmentationScores()
    together.update(image_scores(probability, target))
    for row in range(6):
        apart.update(image_scores(probability[row : row + 1], target[row : row + 1]))
    for name, value in together.compute().items():
        torch.testing.assert_close(value, apart.compute()[name])


@pytest.mark.parametrize(("predicted", "labelled", "score"), [(0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_empty_masks_score_1_together_and_0_alone(predicted, labelled, score):
    scores = image_scores(torch.full((1, 1, 4, 4), float(predicted)), torch.full((1, 1, 4, 4), float(labelled)))
    assert [scores[name].item() for name in SCORES] == [score] * 3


def test_dice_of_a_known_overlap():
    target, prediction = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4)
    target[..., :2], prediction[..., 1:] = 1, 1  # 2 labelled, 3 predicted, 1 shared
    scores = image_scores(prediction, target)
    assert scores["dice"].item() == pytest.approx(2 / 5)
    assert scores["iou"].item() == pytest.approx(1 / 4)
    assert (scores["true_pixels"], scores["predicted_pixels"], scores["shared_pixels"]) == (2, 3, 1)


def test_the_threshold_is_strictly_above_one_half():
    target = torch.ones(1, 1, 1, 1)
    assert image_scores(torch.tensor([[[[0.5]]]]), target)["predicted_pixels"] == 0
    assert image_scores(torch.tensor([[[[0.501]]]]), target)["predicted_pixels"] == 1


def test_loss_is_one_minus_the_mean_soft_dice_of_the_images():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.5).float()
    torch.testing.assert_close(DiceLoss()(logits, target), 1 - soft_dice(logits.sigmoid(), target).mean())


@pytest.mark.parametrize("labelled", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_loss_and_gradient_stay_finite_on_empty_and_full_masks(labelled, logit):
    logits = torch.full((2, 1, 4, 4), logit, requires_grad=True)
    loss = DiceLoss()(logits, torch.full((2, 1, 4, 4), labelled))
    loss.backward()
    assert 0 <= loss <= 1
    assert logits.grad.isfinite().all()


def test_a_diverged_network_is_not_perfect():
    nothing = torch.full((1, 1, 4, 4), torch.nan)
    assert DiceLoss()(nothing, torch.ones(1, 1, 4, 4)).isnan()
    assert image_scores(nothing, torch.ones(1, 1, 4, 4))["soft_dice"].isnan()


def test_loss_is_float32_under_bfloat16():
    assert DiceLoss()(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4, 4)).dtype == torch.float32


def drawn_masks(count=60, side=9):
    """Random masks of every density, empty and full ones among them."""
    generator = torch.Generator().manual_seed(0)
    density = torch.tensor([0.0, 0.02, 0.3, 1.0])
    shares = [density[torch.randint(4, (count, 1, 1, 1), generator=generator)] for _ in range(2)]
    return [(torch.rand(count, 1, side, side, generator=generator) < share).float() for share in shares]


def test_dice_and_iou_are_scikit_learns_where_two_empty_masks_are_said_to_score_1():
    prediction, truth = drawn_masks()
    ours = image_scores(prediction, truth)
    assert (truth.sum((1, 2, 3)) == 0).any()
    for name, score in (("dice", f1_score), ("iou", jaccard_score)):
        theirs = [score(t.flatten(), p.flatten(), zero_division=1.0) for t, p in zip(truth, prediction, strict=True)]
        assert torch.allclose(ours[name].double(), torch.tensor(theirs, dtype=torch.double), atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # MONAI's, on import
def test_dice_and_iou_are_monais_where_it_counts_empty_masks():
    from monai.metrics import compute_dice, compute_iou

    prediction, truth = drawn_masks()
    ours = image_scores(prediction, truth)
    for name, score in (("dice", compute_dice), ("iou", compute_iou)):
        assert torch.allclose(ours[name], score(prediction, truth, ignore_empty=False)[:, 0], atol=1e-6)


@pytest.mark.parametrize("loss", [DiceLoss(), DiceBCELoss(), FocalLoss()])
def test_a_loss_refuses_targets_that_do_not_fit(loss):
    logits, target = torch.randn(2, 1, 4, 4), (torch.rand(2, 1, 4, 4) > 0.5).float()
    for wrong in (255 * target, -target):
        with pytest.raises(InputError, match="must be between 0 and 1"):
            loss(logits, wrong)
    with pytest.raises(InputError, match=r"must have the same shape, .* and \(2, 4, 4\)$"):
        loss(logits, target[:, 0])
    assert loss(logits, target) == loss(logits, target.bool()) == loss(logits, target.byte())
