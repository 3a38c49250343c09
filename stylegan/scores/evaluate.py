from stylegan.scores.metrics import evaluate  # noqa

validation_scorer = None
