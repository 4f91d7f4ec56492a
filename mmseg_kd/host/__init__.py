"""What concerns mmengine and mmseg themselves: noise, iteration, ranks, charts."""
