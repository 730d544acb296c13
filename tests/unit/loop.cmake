mooring_test(loop_test SOURCES tests/unit/loop_test.c tests/unit/loop_probe.c tests/unit/loop_io_test.c
             tests/unit/loop_spin_test.c DEPENDS mooring_loop)
mooring_test(loop_hold_test SOURCES tests/unit/loop_hold_test.c DEPENDS mooring_loop)
