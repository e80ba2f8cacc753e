package main

import (
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

// addMoney gives a fake kernel a book: that of the payer of [dealt].
func addMoney(f *admintest.Fake) {
	_, self := newNode("payer")
	_, lamp := newNode("payee")
	f.Money = &admin.Wallet{
		Node: self, Name: "desk-fake", Price: 1500, Donor: true, Balance: -1500, Available: 36_000*sdk.OneATP - 1500, Spent: 1500,
		Peers: []admin.WalletPeer{{Node: lamp, Name: "lamp", Balance: -1500, Spent: 1500, Reserved: 250_000, Credit: 36_000 * sdk.OneATP, Default: true}},
	}
	list, jobs := dealt(3)
	for i, s := range list {
		j := jobs[i][0]
		f.Booked = append(f.Booked, admin.Entry{
			Seq: uint64(i + 1), Time: time.Date(2026, 11, 22, 12, i, 0, 0, time.UTC), What: "spend", Peer: lamp, PeerName: "lamp", Amount: 500,
			Postings: []admin.EntryPosting{{Account: "reserved/" + sdk.Account(lamp), Amount: -500}, {Account: "spent/" + sdk.Account(lamp), Amount: 500}},
			Jobs:     []admin.EntryJob{{From: j.From, Cell: j.Cell, Method: j.Method, Calls: j.Calls, CPU: j.CPU, Meter: j.Source, Price: uint32(j.Price), Amount: j.Amount}},
			Receipt: &admin.EntryReceipt{Payer: self, Payee: lamp, Epoch: 1, Seq: s.Seq, CPU: s.CPU, Amount: s.Receipt.Amount, Calls: s.Calls,
				PayeeSigned: true, PayerSigned: true, Signed: s.Bytes()},
		})
	}
}
