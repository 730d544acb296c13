if(TARGET mooring_target)
  mooring_test(target_parts_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/target_parts_test.c DEPENDS mooring_target)
endif()
