if(TARGET mooring_controller)
  mooring_test(controller_rules_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/controller_rules_test.c
    DEPENDS mooring_controller)
  mooring_test(controller_calls_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/controller_calls_test.c ${CMAKE_CURRENT_LIST_DIR}/controller_peer.c
    DEPENDS mooring_controller)
endif()
