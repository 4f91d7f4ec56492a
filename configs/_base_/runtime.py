_base_ = 'mmseg::_base_/default_runtime.py'
custom_imports = dict(imports=['mmseg_kd.register'], allow_failed_imports=False)
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)
# Like the losses the terms are means over the last iterations in a line of the log.
log_processor = dict(mean_pattern=r'.*(loss|time|data_time|grad_norm|kd\.).*')
