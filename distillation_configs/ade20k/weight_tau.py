# CGD with weights 1 to 3 and temperatures 1 to 4, SegFormer-B3 to B0.
_base_ = ['../_base_/ade20k-512x512_segformer-b3_segformer-b0.py', '../_base_/ade20k_methods.py']
model = dict(distillation=_base_.methods.cgd)
experiments = {
    f'weight{weight:g}-tau{tau:g}': dict(
        options={'model.distillation.0.weight': weight, 'model.distillation.0.loss.tau': tau},
        published=40.39 if (weight, tau) == (3, 2) else None,
    )
    for weight in (1.0, 2.0, 3.0)
    for tau in (1.0, 2.0, 3.0, 4.0)
}
