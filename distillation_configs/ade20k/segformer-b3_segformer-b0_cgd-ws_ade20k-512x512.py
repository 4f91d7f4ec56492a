# CGD with warm-up and early stop: the best of the published results.
_base_ = '../example_config.py'
