if(TARGET mooring_controller)
  mooring_test(controller_rules_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/controller_rules_test.c
    DEPENDS mooring_controller)
  mooring_test(controller_share_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/controller_share_test.c
    DEPENDS mooring_controller)
  foreach(part names calls change cut hang snapshot)
    mooring_test(controller_${part}_test
      SOURCES ${CMAKE_CURRENT_LIST_DIR}/controller_${part}_test.c ${CMAKE_CURRENT_LIST_DIR}/controller_fixture.c
              ${CMAKE_CURRENT_LIST_DIR}/controller_peer.c ${CMAKE_CURRENT_LIST_DIR}/controller_peer_snapshot.c
      DEPENDS mooring_controller)
  endforeach()
endif()
