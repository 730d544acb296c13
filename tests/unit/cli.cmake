if(TARGET mooring_cli)
  mooring_test(cli_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/cli_test.c DEPENDS mooring_cli)
endif()
