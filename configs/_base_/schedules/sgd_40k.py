_base_ = 'mmseg::_base_/schedules/schedule_40k.py'
