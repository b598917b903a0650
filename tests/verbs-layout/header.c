/* What the header declares and rdma-sys leaves out. */
#include <infiniband/verbs.h>

const int link_layers[3] = {IBV_LINK_LAYER_UNSPECIFIED, IBV_LINK_LAYER_INFINIBAND, IBV_LINK_LAYER_ETHERNET};

_Static_assert(__builtin_types_compatible_p(__typeof__(_ibv_query_gid_ex),
                                            int(struct ibv_context *, uint32_t, uint32_t, struct ibv_gid_entry *,
                                                uint32_t, size_t)),
               "the signature that tests/layout.rs has");
