# A disk that fails on command, below the pools of tests and of the example's power cut.
pkg_check_modules(fuse3 REQUIRED IMPORTED_TARGET fuse3)
add_executable(faulty-disk tests/faults/faulty_disk.c tests/faults/disk_cache.c tests/faults/disk_journal.c)
target_include_directories(faulty-disk PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(faulty-disk PRIVATE PkgConfig::fuse3)
set_target_properties(faulty-disk PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
