_base_ = '../_base_/ade20k-512x512_segformer-b3_segformer-b0.py'
