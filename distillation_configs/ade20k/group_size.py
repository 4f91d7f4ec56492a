# CGD with groups of 1 channel up to all 150, SegFormer-B3 to B0.
_base_ = ['../_base_/ade20k-512x512_segformer-b3_segformer-b0.py', '../_base_/ade20k_methods.py']
model = dict(distillation=_base_.methods.cgd)
experiments = {
    f'group{size}': dict(
        options={'model.distillation.0.loss.group_size': size},
        published=40.39 if size == 10 else None,
    )
    for size in (1, 3, 10, 30, 50, 150)
}
