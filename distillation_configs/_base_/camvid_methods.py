# The terms by method.
logits = dict(student_layer='decode_head.conv_seg', teacher_layer='decode_head.conv_seg')
kl = dict(**logits, loss=dict(type='KLLoss', tau=2.0, ignore_index=255), weight=4.0)
cd = dict(**logits, loss=dict(type='CDLoss', tau=4.0, ignore_index=255), weight=3.0)
cgd = dict(**logits, loss=dict(type='CGDLoss', group_size=2, tau=4.0, ignore_index=255), weight=6.0)
cwd = dict(recipe='cwd')
