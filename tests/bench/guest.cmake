# Not a test: tests/bench/guest has QEMU load it.
add_library(count-instructions MODULE ${PROJECT_SOURCE_DIR}/tests/bench/count_instructions.c)
target_compile_options(count-instructions PRIVATE -fno-sanitize=all)
target_link_options(count-instructions PRIVATE -fno-sanitize=all)
set_target_properties(count-instructions PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
