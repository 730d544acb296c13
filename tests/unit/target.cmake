if(TARGET mooring_target)
  mooring_test(target_parts_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/target_parts_test.c DEPENDS mooring_target)

  mooring_test(target_limits_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/target_limits_test.c DEPENDS mooring_target)

  # The owner's side alone, on fake loops: it brings its own volume and its own connections.
  set(target ${PROJECT_SOURCE_DIR}/datapath/target)
  mooring_test(target_export_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/target_export_test.c ${target}/export.c ${target}/limits.c ${target}/round.c ${target}/session.c
    DEPENDS mooring_fake_loop mooring_store mooring_iscsi mooring_scsi mooring_rpc)

  # Who waits for a volume's limits, on the fake loop's clock.
  mooring_test(target_throttle_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/target_throttle_test.c ${target}/throttle.c ${target}/limits.c
    DEPENDS mooring_fake_loop mooring_iscsi)
endif()

# For tests/integration/test_controller_cut.py: a storage server whose copies take as long as a test wants.
add_library(hold-clones MODULE ${PROJECT_SOURCE_DIR}/tests/integration/hold_clones.c)
target_compile_options(hold-clones PRIVATE -fno-sanitize=all)
target_link_options(hold-clones PRIVATE -fno-sanitize=all)
set_target_properties(hold-clones PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
