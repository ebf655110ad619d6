// Run with: make test-clients
// or by hand, while `make run` is running elsewhere, with a MySQL or MariaDB that has ../schema.sql:
// MYSQL_UNIX_PORT=/run/mysqld/mysqld.sock go run ./grpc

// Command grpc is DTM's Go client for gRPC, unchanged, with gRPC branches that it serves behind the client's own
// barrier: the same transfers as in ../barrier. The messages have a type of the protobuf library, so that the example
// needs no generated code.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"

	"wasaga/examples/clients/bank"
)

// server is the address of Wasaga's gRPC API.
var server = bank.Env("WASAGA_GRPC", "127.0.0.1:36790")

// service serves Take and Give, for actions and compensations; the operation says which.
type service struct {
	bank    bank.Bank
	address string
	mutex   sync.Mutex
	calls   []string
}

func (s *service) description() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "bank.Bank",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{s.method("Take", -1), s.method("Give", 1)},
	}
}

func (s *service) method(name string, sign int64) grpc.MethodDesc {
	handle := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		order := new(structpb.Struct)
		if err := decode(order); err != nil {
			return nil, err
		}
		if err := s.handle(ctx, name, sign, order.AsMap()); err != nil {
			return nil, dtmgrpc.DtmError2GrpcError(err).(error)
		}
		return new(emptypb.Empty), nil
	}
	return grpc.MethodDesc{MethodName: name, Handler: handle}
}

func (s *service) handle(ctx context.Context, name string, sign int64, order map[string]any) error {
	barrier, err := dtmgrpc.BarrierFromGrpc(ctx)
	if err != nil {
		return err
	}
	amount := sign * int64(order["amount"].(float64))
	if barrier.Op == "compensate" {
		amount = -amount
	}
	first := s.isFirst(name + " " + barrier.Op)
	err = s.bank.Change(barrier, order["account"].(string), amount)
	if err != nil || !first || order["lose_answer"] == nil {
		return err
	}
	return errors.New("the answer got lost")
}

// isFirst records a call and reports whether it is the first of its kind.
func (s *service) isFirst(call string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	defer func() { s.calls = append(s.calls, call) }()
	for _, earlier := range s.calls {
		if earlier == call {
			return false
		}
	}
	return true
}

// transfer creates a saga that moves 30.
func (s *service) transfer(from, to string, more map[string]any) *dtmgrpc.SagaGrpc {
	s.calls = nil
	message := func(account string, more map[string]any) *structpb.Struct {
		order := map[string]any{"account": account, "amount": 30}
		for key, value := range more {
			order[key] = value
		}
		message, err := structpb.NewStruct(order)
		bank.Must(err)
		return message
	}
	take, give := s.address+"/bank.Bank/Take", s.address+"/bank.Bank/Give"
	return dtmgrpc.NewSagaGrpc(server, "go-grpc-"+dtmgrpc.MustGenGid(server)).
		Add(take, take, message(from, nil)).
		Add(give, give, message(to, more))
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	bank.Must(err)
	service := &service{bank: bank.Open(), address: listener.Addr().String()}
	participant := grpc.NewServer()
	participant.RegisterService(service.description(), service)
	go participant.Serve(listener)

	run := dtmgrpc.MustGenGid(server)
	alice, bob, nobody := "alice-"+run, "bob-"+run, "nobody-"+run
	service.bank.Create(alice, 100)
	service.bank.Create(bob, 0)

	saga := service.transfer(alice, bob, map[string]any{"lose_answer": true})
	bank.Must(saga.Submit())
	bank.Check(bank.Query(saga.Gid), bank.Saga{Status: "succeed", Branches: []string{"prepared", "succeed", "prepared", "succeed"}})
	bank.Check(service.calls, []string{"Take action", "Give action", "Give action"})
	bank.Check(service.bank.Balance(alice), int64(70))
	bank.Check(service.bank.Balance(bob), int64(30))

	saga = service.transfer(alice, nobody, nil)
	saga.WaitResult = true
	err = saga.Submit()
	bank.Check(status.Code(err), codes.Aborted)
	bank.Check(errors.Is(dtmgrpc.GrpcError2DtmError(err), dtmcli.ErrFailure), true)
	ended := bank.Query(saga.Gid)
	bank.Check(ended.Status, "failed")
	bank.Check(ended.Branches, []string{"succeed", "succeed", "succeed", "failed"})
	bank.Contains(ended.Reason, "there is no account "+nobody)
	bank.Check(service.calls, []string{"Take action", "Give action", "Give compensate", "Take compensate"})
	bank.Check(service.bank.Balance(alice), int64(70))
	fmt.Println("go-grpc: one saga succeeded in spite of a lost answer, one was rolled back")
}
