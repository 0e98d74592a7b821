import numpy as np

from cellseg.objects import count_unlabelled


def test_counts_objects_that_touch_no_label_and_leaves_specks_out():
    prediction, truth = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    prediction[2:8, 2:8] = prediction[20:26, 2:8] = prediction[20:26, 20:26] = True
    prediction[35, 35] = True  # a speck
    truth[7:12, 7:12] = True  # touches the first by a corner pixel
    assert count_unlabelled(prediction, truth) == 2
    assert count_unlabelled(prediction, np.zeros_like(truth)) == 3
    assert count_unlabelled(np.zeros_like(prediction), truth) == 0
