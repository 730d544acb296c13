# A disk that fails on command, below the pools of tests and of the example's power cut.
pkg_check_modules(fuse3 REQUIRED IMPORTED_TARGET fuse3)
add_executable(faulty-disk tests/faults/faulty_disk.c tests/faults/disk_cache.c tests/faults/disk_journal.c)
target_include_directories(faulty-disk PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(faulty-disk PRIVATE PkgConfig::fuse3)
set_target_properties(faulty-disk PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)

# The store, killed at each of its system calls.
add_executable(crash-points tests/faults/crash_points.c tests/faults/crash_operations.c
  tests/faults/crash_operations_more.c tests/faults/crash_state.c
  tests/unit/store_gate.c)
target_include_directories(crash-points PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(crash-points PRIVATE mooring_store)
target_link_options(crash-points PRIVATE LINKER:--wrap=fsync LINKER:--wrap=fdatasync)
set_target_properties(crash-points PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
