mooring_test(loop_test SOURCES tests/unit/loop_test.c tests/unit/loop_io_test.c DEPENDS mooring_loop)
