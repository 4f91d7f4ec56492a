# The published comparison of methods, which gives no figure for the last here.
_base_ = ['../_base_/ade20k-512x512_segformer-b3_pspnet-r50.py', '../_base_/ade20k_methods.py']
published = {
    'baseline': 40.94,
    'kl': 43.17,
    'at': 42.14,
    'ifvd': 41.7,
    'cd': 42.68,
    'cgd': 43.61,
}
experiments = {
    name: dict(options={'model.distillation': terms}, published=published.get(name))
    for name, terms in _base_.methods.items()
}
