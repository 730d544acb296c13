# Not a test: tests/bench/device runs it.
add_executable(iscsi_bench ${PROJECT_SOURCE_DIR}/tests/bench/iscsi_bench.c)
set_target_properties(iscsi_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
target_link_libraries(iscsi_bench PRIVATE mooring_common PkgConfig::libiscsi)
