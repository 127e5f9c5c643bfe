/*
 * verbs_abi_test.c - what native-src/verbs.h says of libibverbs and librdmacm, held against their own headers.
 *
 * Compiling it is the test. Each member that drover uses must be where the real structure has it, and each constant what
 * it is there. A structure that the libraries allocate may be longer than ours; one that drover allocates may not be shorter than theirs.
 */
#include "../../native-src/verbs.h"

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stddef.h>

#define SAME(ours, our_member, theirs, their_member)                                                              \
	_Static_assert(offsetof(struct ours, our_member) == offsetof(struct theirs, their_member), #ours "." #our_member); \
	_Static_assert(sizeof(((struct ours *)0)->our_member) == sizeof(((struct theirs *)0)->their_member), #ours "." #our_member)
#define AS_LONG(ours, theirs) _Static_assert(sizeof(struct ours) >= sizeof(struct theirs), #ours)
#define VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)

SAME(vb_context, poll_cq, ibv_context, ops.poll_cq);
SAME(vb_context, req_notify_cq, ibv_context, ops.req_notify_cq);
SAME(vb_context, post_send, ibv_context, ops.post_send);
SAME(vb_context, cmd_fd, ibv_context, cmd_fd);
SAME(vb_context, async_fd, ibv_context, async_fd);
SAME(vb_pd, context, ibv_pd, context);
SAME(vb_mr, address, ibv_mr, addr);
SAME(vb_mr, length, ibv_mr, length);
SAME(vb_mr, lkey, ibv_mr, lkey);
SAME(vb_mr, rkey, ibv_mr, rkey);
SAME(vb_channel, fd, ibv_comp_channel, fd);
SAME(vb_cq, context, ibv_cq, context);
SAME(vb_qp, context, ibv_qp, context);
SAME(vb_qp, number, ibv_qp, qp_num);

AS_LONG(vb_sge, ibv_sge);
SAME(vb_sge, address, ibv_sge, addr);
SAME(vb_sge, length, ibv_sge, length);
SAME(vb_sge, lkey, ibv_sge, lkey);

_Static_assert(sizeof(struct vb_send_wr) == sizeof(struct ibv_send_wr), "vb_send_wr");
SAME(vb_send_wr, id, ibv_send_wr, wr_id);
SAME(vb_send_wr, next, ibv_send_wr, next);
SAME(vb_send_wr, pieces, ibv_send_wr, sg_list);
SAME(vb_send_wr, piece_count, ibv_send_wr, num_sge);
SAME(vb_send_wr, opcode, ibv_send_wr, opcode);
SAME(vb_send_wr, flags, ibv_send_wr, send_flags);
SAME(vb_send_wr, immediate, ibv_send_wr, imm_data);
SAME(vb_send_wr, remote_address, ibv_send_wr, wr.rdma.remote_addr);
SAME(vb_send_wr, rkey, ibv_send_wr, wr.rdma.rkey);

/* An array of them is filled by the library. */
_Static_assert(sizeof(struct vb_wc) == sizeof(struct ibv_wc), "vb_wc");
SAME(vb_wc, id, ibv_wc, wr_id);
SAME(vb_wc, status, ibv_wc, status);
SAME(vb_wc, opcode, ibv_wc, opcode);
SAME(vb_wc, byte_length, ibv_wc, byte_len);
SAME(vb_wc, qp_number, ibv_wc, qp_num);

AS_LONG(vb_qp_init, ibv_qp_init_attr);
SAME(vb_qp_init, send_cq, ibv_qp_init_attr, send_cq);
SAME(vb_qp_init, recv_cq, ibv_qp_init_attr, recv_cq);
SAME(vb_qp_init, srq, ibv_qp_init_attr, srq);
SAME(vb_qp_init, send_max, ibv_qp_init_attr, cap.max_send_wr);
SAME(vb_qp_init, receive_max, ibv_qp_init_attr, cap.max_recv_wr);
SAME(vb_qp_init, send_pieces_max, ibv_qp_init_attr, cap.max_send_sge);
SAME(vb_qp_init, receive_pieces_max, ibv_qp_init_attr, cap.max_recv_sge);
SAME(vb_qp_init, inline_max, ibv_qp_init_attr, cap.max_inline_data);
SAME(vb_qp_init, type, ibv_qp_init_attr, qp_type);
SAME(vb_qp_init, signal_all, ibv_qp_init_attr, sq_sig_all);

SAME(cm_channel, fd, rdma_event_channel, fd);
SAME(cm_id, verbs, rdma_cm_id, verbs);
SAME(cm_id, channel, rdma_cm_id, channel);
SAME(cm_id, context, rdma_cm_id, context);
SAME(cm_id, qp, rdma_cm_id, qp);

AS_LONG(cm_connect, rdma_conn_param);
SAME(cm_connect, private_data, rdma_conn_param, private_data);
SAME(cm_connect, private_data_size, rdma_conn_param, private_data_len);
SAME(cm_connect, responder_resources, rdma_conn_param, responder_resources);
SAME(cm_connect, initiator_depth, rdma_conn_param, initiator_depth);
SAME(cm_connect, flow_control, rdma_conn_param, flow_control);
SAME(cm_connect, retry_count, rdma_conn_param, retry_count);
SAME(cm_connect, rnr_retry_count, rdma_conn_param, rnr_retry_count);
SAME(cm_connect, srq, rdma_conn_param, srq);
SAME(cm_connect, qp_number, rdma_conn_param, qp_num);

SAME(cm_event, id, rdma_cm_event, id);
SAME(cm_event, listen_id, rdma_cm_event, listen_id);
SAME(cm_event, kind, rdma_cm_event, event);
SAME(cm_event, status, rdma_cm_event, status);
SAME(cm_event, connect, rdma_cm_event, param.conn);

VALUE(VB_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE);
VALUE(VB_WR_RDMA_READ, IBV_WR_RDMA_READ);
VALUE(VB_SEND_SIGNALED, IBV_SEND_SIGNALED);
VALUE(VB_WC_SUCCESS, IBV_WC_SUCCESS);
VALUE(VB_WC_LOC_PROT_ERR, IBV_WC_LOC_PROT_ERR);
VALUE(VB_WC_WR_FLUSH_ERR, IBV_WC_WR_FLUSH_ERR);
VALUE(VB_WC_REM_ACCESS_ERR, IBV_WC_REM_ACCESS_ERR);
VALUE(VB_WC_RETRY_EXC_ERR, IBV_WC_RETRY_EXC_ERR);
VALUE(VB_QPT_RC, IBV_QPT_RC);
VALUE(VB_ACCESS_LOCAL_WRITE, IBV_ACCESS_LOCAL_WRITE);
VALUE(VB_ACCESS_REMOTE_WRITE, IBV_ACCESS_REMOTE_WRITE);
VALUE(VB_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_READ);
VALUE(CM_ADDR_RESOLVED, RDMA_CM_EVENT_ADDR_RESOLVED);
VALUE(CM_ADDR_ERROR, RDMA_CM_EVENT_ADDR_ERROR);
VALUE(CM_ROUTE_RESOLVED, RDMA_CM_EVENT_ROUTE_RESOLVED);
VALUE(CM_ROUTE_ERROR, RDMA_CM_EVENT_ROUTE_ERROR);
VALUE(CM_CONNECT_REQUEST, RDMA_CM_EVENT_CONNECT_REQUEST);
VALUE(CM_CONNECT_ERROR, RDMA_CM_EVENT_CONNECT_ERROR);
VALUE(CM_UNREACHABLE, RDMA_CM_EVENT_UNREACHABLE);
VALUE(CM_REJECTED, RDMA_CM_EVENT_REJECTED);
VALUE(CM_ESTABLISHED, RDMA_CM_EVENT_ESTABLISHED);
VALUE(CM_DISCONNECTED, RDMA_CM_EVENT_DISCONNECTED);
VALUE(CM_DEVICE_REMOVAL, RDMA_CM_EVENT_DEVICE_REMOVAL);
VALUE(CM_ADDR_CHANGE, RDMA_CM_EVENT_ADDR_CHANGE);
VALUE(CM_TIMEWAIT_EXIT, RDMA_CM_EVENT_TIMEWAIT_EXIT);
VALUE(CM_PORT_SPACE_TCP, RDMA_PS_TCP);
VALUE(CM_DEPTH_MAX, RDMA_MAX_INIT_DEPTH);
VALUE(CM_DEPTH_MAX, RDMA_MAX_RESP_RES);
VALUE(CM_OPTION_ID, RDMA_OPTION_ID);
VALUE(CM_OPTION_ID_ACK_TIMEOUT, RDMA_OPTION_ID_ACK_TIMEOUT);

/* The functions, by assignment: what differs is only how the structures are called. */
_Static_assert(sizeof(ibv_reg_mr) > 0 && sizeof(rdma_create_id) > 0, "they are declared");
