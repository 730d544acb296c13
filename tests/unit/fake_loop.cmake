# The contract of datapath/loop without a ring. In a test's DEPENDS it stands first, before what brings mooring_loop.
mooring_library(mooring_fake_loop SOURCES tests/unit/fake_loop.c tests/unit/fake_loop_io.c DEPENDS mooring_common)
mooring_test(fake_loop_test SOURCES tests/unit/fake_loop_test.c tests/unit/loop_probe.c tests/unit/loop_io_test.c
             DEPENDS mooring_fake_loop)
