_base_ = 'mmseg::_base_/schedules/schedule_20k.py'
