# Not a test: it asserts nothing and is run by hand.
add_executable(loop_bench ${PROJECT_SOURCE_DIR}/tests/bench/loop_bench.c)
target_link_libraries(loop_bench PRIVATE mooring_loop)
