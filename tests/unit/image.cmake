mooring_test(image_test SOURCES tests/unit/image_test.c tests/unit/image_guard_test.c
             tests/unit/image_stable_test.c tests/unit/image_flush_test.c tests/unit/image_bench.c
             DEPENDS mooring_fake_loop mooring_store)
mooring_test(image_threads_test SOURCES tests/unit/image_threads_test.c DEPENDS mooring_store)
