import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cellseg import CellDataModule
from cellseg.data import Dihedral, SplitPlan, StrongAugmentation
from cellseg.data.datamodule import EMBEDDED_ROOT
from cellseg.data.dataset import CellDataset, EpochSampler, derived_seed
from cellseg.storage.errors import InputError
from test_kinship import texture, tiles, write_tiles


def prepared(root, **options):
    datamodule = CellDataModule(str(root), image_size=32, **options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def epoch(datamodule, number):
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def test_samples_are_scaled_images_and_binary_masks(smears):
    batch = next(iter(prepared(smears, batch_size=3).train_dataloader()))
    assert batch["image"].shape == (3, 3, 32, 32)
    assert batch["mask"].shape == (3, 1, 32, 32)
    assert 0.2 < batch["image"].mean() < 0.9
    assert batch["image"].max() <= 1
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    assert len(set(batch["name"])) == 3


def test_masks_follow_their_image_whatever_the_listing_order(tmp_path):
    """Every image is filled with its own shade and its mask has as many cell rows: a mix-up would show."""
    for n in np.random.default_rng(0).permutation(10):
        folder = tmp_path / "set" / f"cell_{n}"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (20 * int(n) + 10,) * 3).save(folder / "source.png")
        mask = np.zeros((32, 32), np.uint8)
        mask[: n + 1] = 255
        Image.fromarray(mask).save(folder / "mask.png")
    datamodule = prepared(tmp_path / "set")
    for loader in (datamodule.train_dataloader(), *datamodule.test_dataloader()):
        for batch in loader:
            for image, mask, name in zip(batch["image"], batch["mask"], batch["name"], strict=True):
                n = int(name.removeprefix("cell_"))
                assert round(image.mean().item() * 255) == 20 * n + 10
                assert mask.sum() == 32 * (n + 1)


def test_flips_and_turns_move_image_and_mask_together_in_all_eight_ways():
    mask = torch.arange(16.0).reshape(1, 4, 4)
    seen = set()
    for seed in range(100):
        image, turned = Dihedral()(mask.repeat(3, 1, 1), mask, torch.Generator().manual_seed(seed))
        assert torch.equal(image[0], turned[0])
        seen.add(tuple(turned.flatten().tolist()))
    assert len(seen) == 8


def blob(size=64):
    """An image whose red is 1 on the cells and 0 elsewhere, and its mask."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    mask = (((rows - 30) ** 2 + (columns - 22) ** 2 < 150) | ((rows - 50).abs() + (columns - 50).abs() < 8)).float()[
        None
    ]
    return torch.cat([mask, torch.full((2, size, size), 0.5)]), mask


def test_a_deformation_moves_image_and_mask_together_and_a_change_of_colour_moves_nothing():
    image, mask = blob()
    areas, moved = [], 0
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        seen, cells = StrongAugmentation(deform=1, recolour=0, blur=0)(image, mask, generator)
        assert set(cells.unique().tolist()) == {0.0, 1.0}
        assert ((seen[0] > 0.5) != (cells[0] > 0)).float().mean() < 0.01  # a pixel at an edge may be rounded otherwise
        areas.append(cells.sum().item() / mask.sum().item())
        moved += not torch.equal(cells, mask)
        coloured = StrongAugmentation(deform=0, recolour=1, blur=1)(image, mask, torch.Generator().manual_seed(seed))
        assert torch.equal(coloured[1], Dihedral()(image, mask, torch.Generator().manual_seed(seed))[1])
        assert coloured[0].min() >= 0
        assert coloured[0].max() <= 1
    assert moved == 30
    assert min(areas) < 0.8
    assert max(areas) > 1.2


def test_grey_stays_grey_and_without_strength_only_flips_and_turns_are_left():
    image, mask = blob()
    grey = image[:1].expand(3, -1, -1).contiguous()
    for seed in range(10):
        seen, _ = StrongAugmentation(recolour=1)(grey, mask, torch.Generator().manual_seed(seed))
        assert torch.equal(seen[0], seen[2])
        off = StrongAugmentation(deform=0, recolour=0, blur=0)(image, mask, torch.Generator().manual_seed(seed))
        flipped = Dihedral()(image, mask, torch.Generator().manual_seed(seed))
        assert all(map(torch.equal, off, flipped))


def test_an_empty_field_looks_like_the_background_and_has_no_cells_and_its_share_is_kept():
    image, mask = blob()
    image[0] += 0.2 * (1 - mask[0])  # a background of 0.2, 0.5, 0.5
    empty = 0
    for seed in range(400):
        drawn, cells = Dihedral(empty=0.25)(image, mask, torch.Generator().manual_seed(seed))
        flipped, turned = Dihedral()(image, mask, torch.Generator().manual_seed(seed))
        if cells.any():
            assert torch.equal(cells, turned)
            assert torch.equal(drawn, flipped)
            continue
        empty += 1
        assert 0 <= drawn.min() <= drawn.max() <= 1
        assert torch.allclose(drawn.mean((1, 2)), torch.tensor([0.2, 0.5, 0.5]), rtol=0.25)
        assert drawn.std() < 0.3
    assert 70 <= empty <= 130
    assert Dihedral(empty=1)(image, torch.ones_like(mask), torch.Generator())[1].all()  # no background to draw


def test_a_strength_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"augmentation\.empty must be in \[0, 1\], but is 2"):
        Dihedral(empty=2)
    with pytest.raises(InputError, match=r"augmentation\.deform must be in \[0, 1\], but is 2"):
        StrongAugmentation(deform=2)
    with pytest.raises(InputError, match=r"augmentation\.scale must be at least 0, but is -1"):
        StrongAugmentation(scale=-1)


def test_epochs_are_a_function_of_seed_and_epoch_alone(smears):
    first, again = (prepared(smears, augmentation=Dihedral(), seed=0) for _ in range(2))
    epoch(first, 0)  # what was drawn before does not matter
    torch.manual_seed(99)  # nor does the global stream
    for a, b in zip(epoch(first, 3), epoch(again, 3), strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["image"], b["image"])


@pytest.mark.parametrize("change", ["seed", "epoch"])
def test_another_seed_or_epoch_gives_another_order_and_other_turns(smears, change):
    datamodule = prepared(smears, augmentation=Dihedral(), batch_size=8)
    other = prepared(smears, augmentation=Dihedral(), batch_size=8, seed=1) if change == "seed" else datamodule
    before, after = epoch(datamodule, 0)[0], epoch(other, int(change == "epoch"))[0]
    assert before["name"] != after["name"]
    turned = [
        not torch.equal(before["image"][before["name"].index(name)], after["image"][after["name"].index(name)])
        for name in before["name"]
    ]
    assert any(turned)


def test_seed_0_epoch_1_is_not_seed_1_epoch_0(smears):
    names = [
        [name for batch in epoch(prepared(smears, seed=seed), number) for name in batch["name"]]
        for seed, number in ((0, 1), (1, 0))
    ]
    assert names[0] != names[1]
    assert derived_seed(0, 1, 5) != derived_seed(1, 0, 5)


def test_an_epoch_sees_every_training_image_once_and_devices_share_them(smears):
    datamodule = prepared(smears)
    names = [name for batch in epoch(datamodule, 0) for name in batch["name"]]
    assert sorted(names) == sorted(entry.name for entry in datamodule.split_record().train)
    dataset = CellDataset(datamodule.decoded, names, augmentation=None, seed=0)
    shares = [{position for position, _ in EpochSampler(dataset, 0, num_replicas=2, rank=rank)} for rank in (0, 1)]
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == set(range(len(names)))


def test_the_training_seed_does_not_move_the_split(smears):
    assert prepared(smears, seed=0).split_record() == prepared(smears, seed=7).split_record()


def test_split_record_names_groups_and_hashes_and_survives_moving_the_folder(own_smears):
    before = prepared(own_smears)
    moved = own_smears.with_name("moved")
    shutil.move(own_smears, moved)
    after = prepared(moved)
    assert before.split_record() == after.split_record()
    assert before.decoded.fingerprint == after.decoded.fingerprint
    entry = before.split_record().test[0]
    assert entry.name == entry.group
    assert len(entry.sha256) == len(entry.mask_sha256) == 64


def test_a_changed_image_changes_its_hash_and_the_fingerprint(own_smears):
    before = prepared(own_smears).decoded
    with Image.open(own_smears / "cell_1" / "source.jpg") as image:
        image.putpixel((0, 0), (0, 255, 0))
        image.save(own_smears / "cell_1" / "source.jpg")
    after = prepared(own_smears).decoded
    assert before.facts[0].sha256 != after.facts[0].sha256
    assert before.facts[1:] == after.facts[1:]
    assert before.fingerprint != after.fingerprint


def test_files_are_decoded_once_not_once_an_epoch(own_smears):
    datamodule = prepared(own_smears)
    shutil.rmtree(own_smears)
    datamodule.setup("fit")
    assert len(epoch(datamodule, 0)) == len(epoch(datamodule, 1)) == 6  # batches of 2


def test_without_a_validation_set_the_test_images_are_watched_unaugmented(smears):
    datamodule = prepared(smears, augmentation=Dihedral())
    watched, tested = list(datamodule.val_dataloader()), list(datamodule.test_dataloader()[0])
    assert not datamodule.has_validation
    assert len(datamodule.test_dataloader()) == 1
    for a, b in zip(watched, tested, strict=True):
        assert torch.equal(a["image"], b["image"])


def test_a_validation_set_lies_inside_the_training_part(smears):
    without, with_val = prepared(smears), prepared(smears, split=SplitPlan(val_fraction=0.25))
    assert with_val.has_validation
    assert with_val.counts == {"train": 6, "val": 2, "test": 2}
    assert with_val.split_record().test == without.split_record().test
    assert [len(loader) for loader in with_val.test_dataloader()] == [2, 2]


@pytest.mark.slow
def test_the_embedded_set_is_drawn_into_data_on_first_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CellDataModule().prepare_data()
    drawn = [path.name for path in tmp_path.glob("data/*/cell_*")]
    assert len(drawn) == 50


def test_an_incomplete_embedded_set_is_not_trained_on(tmp_path, monkeypatch, smears):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(smears, EMBEDDED_ROOT)
    datamodule = CellDataModule()
    datamodule.prepare_data()
    with pytest.raises(InputError, match=r"must contain the 50 embedded pairs, but contains 10; delete the folder"):
        datamodule.setup()


def copy_to_all(root, change=lambda picture: picture):
    with Image.open(root / "cell_3" / "source.jpg") as picture:
        picture.load()
    for n in range(1, 16):
        if n != 3:
            change(picture).save(root / f"cell_{n}" / "source.jpg", quality=90)


def group_all(root, group):
    rows = "\n".join(f"cell_{n},{group(n)}" for n in range(1, 16))
    (root / "groups.csv").write_text(f"pair,group\n{rows}\n")


def test_the_same_picture_on_both_sides_of_a_split_is_refused(own_smears):
    for n in range(1, 16):
        if n != 3:
            shutil.copy(own_smears / "cell_3" / "source.jpg", own_smears / f"cell_{n}" / "source.jpg")
    with pytest.raises(InputError, match=r"cell_\d+ and cell_\d+ are the same image, but .*--write-groups"):
        prepared(own_smears)
    group_all(own_smears, lambda n: "same" if n < 10 else f"own_{n}")
    with pytest.raises(InputError, match=r"cell_\d+ and cell_1\d"):  # the group is whole, the others still leak
        prepared(own_smears)


def test_nearly_the_same_picture_on_both_sides_is_refused(own_smears):
    copy_to_all(own_smears, lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    with pytest.raises(InputError, match=r"are nearly the same image, but cell_\d+ is in .* more leaks\)"):
        prepared(own_smears)


def test_siblings_on_both_sides_are_refused_unless_told_and_that_is_on_record(tmp_path):
    slides = [texture(seed, (96, 96 * 6)) for seed in (0, 1)]
    root = write_tiles(tmp_path / "tiles", [tile for slide in slides for tile in tiles(slide, 6, 1)])
    with pytest.raises(InputError, match=r"tile_\d+ and tile_\d+ are neighbouring tiles, but tile_\d+ is in"):
        prepared(root)
    leaky = prepared(root, split=SplitPlan(allow_leaks=True))
    record = leaky.data_record()
    assert record["allow_leaks"] is True
    assert record["leaks"]
    assert all("neighbouring tiles" in leak for leak in record["leaks"])
    rows = "\n".join(f"tile_{n},{'left' if n < 7 else 'right'}" for n in range(1, 13))
    (root / "groups.csv").write_text(f"pair,group\n{rows}\n")
    honest = prepared(root, split=SplitPlan(test_fraction=0.5)).data_record()
    assert (honest["allow_leaks"], honest["leaks"]) == (False, [])


def written(datamodule, path):
    datamodule.split_record().write(path)
    return SplitPlan(file=str(path))


def test_a_split_file_repeats_a_split_whatever_the_files_are_called_today(own_smears, tmp_path):
    group_all(own_smears, lambda n: f"slide_{n // 3}")
    before = prepared(own_smears, split=SplitPlan(seed=7, val_fraction=0.2))
    plan = written(before, tmp_path / "split.json")
    (own_smears / "groups.csv").unlink()
    for n in range(1, 16):
        (own_smears / f"cell_{n}").rename(own_smears / f"other_{16 - n}")
    after = prepared(own_smears, split=plan).split_record().model_dump()
    old = before.split_record().model_dump()
    for subset in ("train", "val", "test"):
        assert {entry["sha256"] for entry in after[subset]} == {entry["sha256"] for entry in old[subset]}
        assert {entry["group"] for entry in after[subset]} == {entry["group"] for entry in old[subset]}
    assert {key: after[key] for key in ("seed", "val_fraction")} == {"seed": 7, "val_fraction": 0.2}


def test_twins_of_one_content_are_both_repeated(own_smears, tmp_path):
    shutil.copytree(own_smears / "cell_3", own_smears / "cell_33")
    shutil.copytree(own_smears / "cell_3", own_smears / "cell_34")
    rows = "\n".join(f"cell_{n},{'g' if n in (3, 33, 34) else n}" for n in [*range(1, 16), 33, 34])
    (own_smears / "groups.csv").write_text(f"pair,group\n{rows}\n")
    before = prepared(own_smears)
    assert prepared(own_smears, split=written(before, tmp_path / "s.json")).split_record() == before.split_record()


def test_twins_with_masks_of_their_own_are_told_apart_by_them(own_smears, tmp_path):
    shutil.copy(own_smears / "cell_1" / "source.jpg", own_smears / "cell_2" / "source.jpg")
    before = prepared(own_smears, split=SplitPlan(allow_leaks=True)).split_record()
    before.write(tmp_path / "split.json")
    (own_smears / "cell_1").rename(own_smears / "t")
    (own_smears / "cell_2").rename(own_smears / "a")
    after = prepared(own_smears, split=SplitPlan(file=str(tmp_path / "split.json"), allow_leaks=True)).split_record()
    for subset in ("train", "test"):
        masks = [{entry.mask_sha256 for entry in getattr(record, subset)} for record in (before, after)]
        assert masks[0] == masks[1]


def test_a_changed_or_missing_or_new_image_does_not_slip_into_a_repeated_split(own_smears, tmp_path):
    plan = written(prepared(own_smears), tmp_path / "split.json")
    shutil.copytree(own_smears / "cell_1", tmp_path / "kept")
    with Image.open(own_smears / "cell_1" / "source.jpg") as image:
        image.rotate(180).save(own_smears / "cell_1" / "source.jpg")
    with pytest.raises(InputError, match=r"split\.json: no image has the recorded content of cell_1: it was"):
        prepared(own_smears, split=plan)
    shutil.move(own_smears / "cell_1", own_smears / "new")
    shutil.copytree(tmp_path / "kept", own_smears / "cell_1")
    with pytest.raises(InputError, match=r"split\.json: 1 of the images are not in this split, such as new"):
        prepared(own_smears, split=plan)


def test_an_image_that_trains_and_tests_in_a_split_file_is_named(own_smears, tmp_path):
    plan = written(prepared(own_smears), tmp_path / "split.json")
    split = json.loads((tmp_path / "split.json").read_text())
    split["train"].append(split["test"][0])
    (tmp_path / "split.json").write_text(json.dumps(split))
    name = re.escape(split["test"][0]["name"])
    with pytest.raises(InputError, match=rf"split\.json has {name} in train and in test, more often than the data"):
        prepared(own_smears, split=plan)


def test_a_changed_mask_is_told_when_a_split_is_repeated(own_smears, tmp_path, caplog):
    before = prepared(own_smears)
    plan = written(before, tmp_path / "split.json")
    Image.new("L", (96, 72), 255).save(own_smears / "cell_1" / "mask.jpg")
    assert prepared(own_smears, split=plan).counts == before.counts
    assert "1 masks have changed since, such as cell_1" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"train": 1}', '{"train": [], "val": [], "test": []}'])
def test_a_split_file_that_is_none_is_named(smears, tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(InputError, match=r"split\.json: cannot be read as the split\.json of a run"):
        prepared(smears, split=SplitPlan(file=str(tmp_path / "split.json")))


def test_a_split_file_goes_with_no_other_plan():
    with pytest.raises(InputError, match=r"data\.split\.file repeats a recorded split, so data\.split\.fold has"):
        SplitPlan(file="split.json", fold=1)
    with pytest.raises(InputError, match=r"data\.split\.allow_leaks must be true or false, but is 'maybe'"):
        SplitPlan(allow_leaks="maybe")


def test_hand_made_splits_that_tear_a_group_are_refused(own_smears, tmp_path):
    group_all(own_smears, lambda n: f"slide_{n // 3}")
    record = prepared(own_smears).split_record()
    record.test.append(record.train.pop())
    record.write(tmp_path / "split.json")
    with pytest.raises(InputError, match=r"cell_\d+ and cell_\d+ are in one group \(group slide_\d\), but"):
        prepared(own_smears, split=SplitPlan(file=str(tmp_path / "split.json")))


def test_what_looks_wrong_is_said_before_training(own_smears, caplog):
    Image.new("L", (96, 72)).save(own_smears / "cell_1" / "mask.jpg")
    prepared(own_smears)
    assert "cell_1/mask.jpg: the mask is empty; kept; if the image shows cells" in caplog.text
    assert "grey" not in caplog.text  # what is dealt with is left to cellseg check


def test_masks_without_any_cell_are_no_training_set(own_smears):
    for n in range(1, 16):
        Image.new("L", (96, 72)).save(own_smears / f"cell_{n}" / "mask.jpg")
    with pytest.raises(InputError, match="none of the training masks contains a cell"):
        prepared(own_smears)


def test_nothing_is_drawn_where_the_user_named_a_folder(tmp_path):
    datamodule = CellDataModule(str(tmp_path / "missing"))
    datamodule.prepare_data()
    with pytest.raises(InputError, match="does not exist"):
        datamodule.setup()
    assert not list(tmp_path.iterdir())


def test_a_mask_of_another_size_is_named(own_smears):
    Image.new("L", (10, 20)).save(own_smears / "cell_3" / "mask.jpg")
    with pytest.raises(
        InputError, match=r"cell_3.mask\.jpg: the mask is 10x20 pixels, but its image source\.jpg is 96x72"
    ):
        prepared(own_smears)


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", 0), ("batch_size", 0), ("mask_threshold", 255), ("batch_size", 1.5)]
)
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(InputError, match=rf"data\.{key} must be a whole number from \d+ to \d+, but is {value}"):
        CellDataModule(**{key: value})


def test_an_unreadable_file_is_named_with_the_command_that_lists_all(own_smears):
    (own_smears / "cell_3" / "mask.jpg").write_text("no picture")
    with pytest.raises(
        InputError, match=rf"mask\.jpg: cannot be read .*; list all problems: cellseg check {own_smears}$"
    ):
        prepared(own_smears)


def test_masks_of_which_none_keeps_a_cell_are_refused_with_the_size_that_keeps_them(tmp_path):
    for number in range(6):
        cell = np.zeros((640, 640), np.uint8)
        cell[5 + number, 5:7] = 255
        Image.fromarray(cell).save(tmp_path / f"c{number}_mask.png")
        Image.fromarray(np.full((640, 640), 20 * number, np.uint8)).save(tmp_path / f"c{number}.png")
    with pytest.raises(InputError, match=r"when they are resized to 32x32 pixels; set data\.image_size=\d+"):
        prepared(tmp_path)


@pytest.mark.parametrize("channels", [[], [0, 0], [-1], "01", [0.5], [0, 1, 2, 3, 4], 1])
def test_channels_that_are_none_are_refused(smears, channels):
    with pytest.raises(InputError, match=r"data\.channels must be a list of 1 to 4 different channels, counted from 0"):
        CellDataModule(str(smears), channels=channels)
