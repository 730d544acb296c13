# Not a test: tests/bench/scale runs it.
add_executable(create_bench ${PROJECT_SOURCE_DIR}/tests/bench/create_bench.c)
set_target_properties(create_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
target_link_libraries(create_bench PRIVATE mooring_rpc mooring_proto)
